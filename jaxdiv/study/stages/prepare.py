"""Prepare: a base set from archives, from the user's own images or generated -> a stored table of one size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdiv.data import registry
from jaxdiv.data.own import fingerprint
from jaxdiv.data.own.outline import Outline
from jaxdiv.data.prepare import DataSettings, prepare_base_set
from jaxdiv.study.own_sets import in_flags_of
from jaxdiv.study.sections import NO_RESULT
from jaxdiv.study.unit import ProgressFn


@dataclass(frozen=True)
class Known:
    """What is known of a user's data set before it is prepared: its outline, and the hash of its images."""

    outline: Outline
    sha256: str


@dataclass(frozen=True)
class Spec:
    """Which base set is made, how.

    Attributes:
      made_from: what of `data` decides how it is made, and what the user's own images are.
      known: of the user's own.
    """

    base: str
    pixels: int
    made_from: Mapping[str, Any]
    data: DataSettings = field(metadata=NO_RESULT)
    known: Known | None = field(default=None, metadata=NO_RESULT)


@dataclass(frozen=True)
class Result:
    """What was made.

    Attributes:
      left_out: names of classes and images by the reason in words.
      notes: what was recognised in the user's own.
      changed: how many images were changed, by how.
      images_per_class: the least, the median and the most.
      sha256: of all pixels.
      archives: name, sha256 and size of each.
      train, val, test: how many `classes` and `images` there are.
    """

    left_out: dict[str, list[str]]
    notes: list[str]
    changed: dict[str, int]
    images_per_class: dict[str, float]
    sha256: str
    archives: list[dict[str, Any]]
    train: dict[str, int]
    val: dict[str, int]
    test: dict[str, int]


def look(base: str, data: DataSettings) -> Known:
    """What a data set of the user's holds. No pixel is decoded; files that are new are read once, for their hash.

    Raises:
      InputError: as `outline.outline`.
    """
    with in_flags_of(base, data.split_file):
        outlined = data.outline(base)
        return Known(outlined, fingerprint.of_set(data.own_set(base).path, outlined))


def spec(base: str, pixels: int, data: DataSettings, known: Known | None = None) -> Spec:
    """The spec of a base set at `pixels` x `pixels`; `known` of one of the user's own."""
    facts: dict[str, Any] = {"partial": data.partial, "min_images": data.min_images}
    if known:
        own = data.own_set(base)
        facts |= {"own": known.sha256, "skip_broken": data.skip_broken, "background": own.background}
        facts |= {"value_range": own.value_range, "normalisation": own.normalisation}
    elif data.without_imagenet and base in registry.BASE_SETS and registry.BASE_SETS[base].in_imagenet:
        facts["without_imagenet"] = True
    elif base not in registry.BASE_SETS:
        facts = {"classes": data.classes, "images_per_class": data.images_per_class, "seed": data.seed}
    return Spec(base, pixels, facts, data, known)


def run(spec: Spec, folder: Path, progress: ProgressFn) -> Result:
    """Make the table in `folder`.

    Raises:
      InputError: as `prepare_base_set`.
    """
    outlined = spec.known.outline if spec.known else None
    with in_flags_of(spec.base, spec.data.split_file):
        return Result(**prepare_base_set(spec.base, spec.pixels, spec.data, folder, progress, outlined))
