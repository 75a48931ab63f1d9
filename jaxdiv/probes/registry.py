"""Which probes there are, and how each is loaded by its name."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from jaxdiv.errors import InputError, unknown
from jaxdiv.probes import resnet_probe, vit
from jaxdiv.probes.base import Architecture, Probe
from jaxdiv.probes.weights import IMAGENET, imagenet_file, read_tensors

PROBES: Mapping[str, Architecture] = {
    **resnet_probe.ARCHITECTURES,
    **vit.ARCHITECTURES,
}


def load_probe(
    name: str,
    weights: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Probe:
    """The probe `name`, a key of `PROBES`.

    Args:
        name: the architecture: `resnet18`, `resnet34`, `resnet50`, `resnet50_v1`, `resnet10_narrow`, or `vit_small`.
        weights: a `.safetensors` or `.pth` file with torchvision's or timm's names and shapes (any float type; computed
            in float32); `"imagenet"` for torchvision's, downloaded once into `download.cache_folder()`; or None for
            random parameters (`resnet_probe.random_params`, `vit.random_params`).
        seed: of the random parameters; unused with `weights`.
        progress: called with the downloaded share, 0..1; None: a bar in a terminal or a notebook.

    Raises:
        InputError: for an unknown name, and for a file that is missing, broken or of another architecture.
    """
    if name not in PROBES:
        raise unknown("probe", name, PROBES)
    tensors, path = None, ""
    if weights is not None:
        path = str(imagenet_file(name, progress) if str(weights) == IMAGENET else weights)
        tensors = read_tensors(Path(path))
    return PROBES[name].load(tensors, jax.random.key(seed), path)


def check_pixels(name: str, pixels: int) -> None:
    """Raise InputError where the probe `name` takes no images of `pixels` x `pixels`; nothing is loaded."""
    multiple = PROBES[name].multiple
    if rest := pixels % multiple:
        near = f"{pixels - rest} or {pixels - rest + multiple}" if pixels > multiple else str(multiple)
        raise InputError(f"`pixels` is {pixels}: probe {name!r} takes multiples of {multiple} only, such as {near}")
