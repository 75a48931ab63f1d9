"""Prepare: one base set from its archives, from a folder or generated -> a stored table of images of one size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdiv.data import registry
from jaxdiv.data.folder import fingerprint
from jaxdiv.data.prepare import DataSettings, prepare_base_set
from jaxdiv.study.sections import NO_RESULT
from jaxdiv.study.unit import ProgressFn


@dataclass(frozen=True)
class Spec:
    """Which base set is made, how.

    Attributes:
      made_from: what of `data` decides how it is made, and how many files and bytes the user's own images are.
    """

    base: str
    pixels: int
    made_from: Mapping[str, Any]
    data: DataSettings = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class Result:
    """What was made.

    Attributes:
      left_out: classes and images that are absent, too small or broken.
      sha256: of all pixels.
      archives: name, sha256 and size of each.
      train, val, test: how many `classes` and `images` there are.
    """

    left_out: list[str]
    sha256: str
    archives: list[dict[str, Any]]
    train: dict[str, int]
    val: dict[str, int]
    test: dict[str, int]


def spec(base: str, pixels: int, data: DataSettings) -> Spec:
    """The spec of a base set at `pixels` x `pixels`."""
    facts: dict[str, Any] = {"partial": data.partial, "min_images": data.min_images}
    if path := data.own.get(base):
        facts |= {"own": path, "skip_broken": data.skip_broken, "files": fingerprint(Path(path))}
        facts |= {"fractions": data.fractions, "split_seed": data.split_seed}
        if data.split_file:
            facts["split_file"] = fingerprint(Path(data.split_file))
    elif data.without_imagenet and base in registry.BASE_SETS and registry.BASE_SETS[base].in_imagenet:
        facts["without_imagenet"] = True
    elif base not in registry.BASE_SETS:
        facts = {"classes": data.classes, "images_per_class": data.images_per_class, "seed": data.seed}
    return Spec(base, pixels, facts, data)


def run(spec: Spec, folder: Path, progress: ProgressFn) -> Result:
    """Make the table in `folder`.

    Raises:
      InputError: as `prepare_base_set`.
    """
    return Result(**prepare_base_set(spec.base, spec.pixels, spec.data, folder, progress))
