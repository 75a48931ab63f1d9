"""Which probes there are, and how each is loaded by its name.

A probe is one file, with a function that loads it, and one line in PROBES.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxdiv.errors import InputError, unknown
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import Probe
from jaxdiv.probes.weights import IMAGENET, imagenet_file, read_tensors


@dataclass(frozen=True)
class Entry:
    """What is known of a probe before it is loaded.

    Attributes:
      path: the function that loads it, "module:function", imported when it is first needed. It takes the probe's
        name, tensors by their names (None: random parameters), a key, and the file's name for errors.
      multiple: the sides of its images must be multiples of it, in pixels.
    """

    path: str
    multiple: int = 1


_RESNET, _VIT = "jaxdiv.probes.resnet_probe:load", "jaxdiv.probes.vit:load"
PROBES = {
    "resnet10_narrow": Entry(_RESNET),
    "resnet18": Entry(_RESNET),
    "resnet34": Entry(_RESNET),
    "resnet50": Entry(_RESNET),
    "resnet50_v1": Entry(_RESNET),
    "vit_small": Entry(_VIT, multiple=16),
}


@full_precision
def load_probe(
    name: str,
    weights: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Probe:
    """The probe `name`, a key of `PROBES`.

    Args:
      name: the architecture: `resnet18`, `resnet34`, `resnet50`, `resnet50_v1`, `resnet10_narrow`, or `vit_small`.
      weights: a file of safetensors or of `torch.save` (.pth, .pt, .bin, .ckpt, .pth.tar) with torchvision's or timm's
        names and shapes, below any prefix, also of a training checkpoint or a whole module (any float type; computed
        in float32); `"imagenet"` for torchvision's, downloaded once into `download.cache_folder()`; or None for
        random parameters (`resnet_probe.random_params`, `vit.random_params`).
      seed: of the random parameters; unused with `weights`.
      progress: called with the downloaded share, 0..1; None: a bar in a terminal or a notebook.

    Raises:
      InputError: an unknown name, or a file that is missing, broken or of another architecture.
    """
    if name not in PROBES:
        raise unknown("probe", name, PROBES)
    tensors, path = None, ""
    if weights is not None:
        path = str(imagenet_file(name, progress) if str(weights) == IMAGENET else weights)
        tensors = read_tensors(Path(path))
    module, _, function = PROBES[name].path.partition(":")
    return getattr(importlib.import_module(module), function)(name, tensors, jax.random.key(seed), path)


def check_pixels(name: str, pixels: int) -> None:
    """Raise InputError where the probe `name` takes no images of `pixels` x `pixels`; nothing is loaded."""
    multiple = PROBES[name].multiple
    if rest := pixels % multiple:
        near = f"{pixels - rest} or {pixels - rest + multiple}" if pixels > multiple else str(multiple)
        raise InputError(f"`pixels` is {pixels}: probe {name!r} takes multiples of {multiple} only, such as {near}")
