"""Files of weights: read without running them, checked against an architecture, and torchvision's downloaded."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdiv.download import cache_folder, fetch
from jaxdiv.errors import InputError
from jaxdiv.nets.torch_file import read_state_dict

IMAGENET = "imagenet"
# torchvision's IMAGENET1K_V1 files; a name ends with the first 8 digits of its sha256.
_TORCHVISION = "https://download.pytorch.org/models/"
_IMAGENET_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
}
_KINDS = "a .safetensors or .pth file with torchvision's or timm's parameter names"


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a `.safetensors` or `.pth` file, floats as float32; no pickle is executed.

    Raises InputError where the file is unusable, also where its name ends with a hash (`-f37072fd`) not its own.
    """
    check_weights("", path)
    if wanted := re.search(r"-([0-9a-f]{8})$", path.stem):
        _check_hash(path, wanted[1])
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else read_state_dict(path)
    return {k: np.asarray(v, np.float32 if jnp.issubdtype(v.dtype, jnp.floating) else None) for k, v in tensors.items()}


def check_weights(name: str, weights: str | Path) -> None:
    """Raise InputError where the probe `name` has no such weights: a file's kind and place, without reading it."""
    path = Path(weights)
    if str(weights) == IMAGENET:
        if name not in _IMAGENET_FILES:
            known = ", ".join(_IMAGENET_FILES)
            raise InputError(f"torchvision has no ImageNet weights for {name}, only for {known}: give a file")
    elif path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(f"{path}: expected {_KINDS}")
    elif not path.is_file():
        raise InputError(f"no weights at {path}: expected {_KINDS}")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "flax") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated, or not a .safetensors file ({error})") from None


def _check_hash(path: Path, prefix: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(prefix):
        raise InputError(
            f"{path}: its sha256 begins {found[:8]}, not {prefix} as its name says: truncated or altered; get it again"
        )


def imagenet_file(name: str, progress: Callable[[float], None] | None = None) -> Path:
    """torchvision's ImageNet weights of a probe: cached, or downloaded once. Raises InputError as `fetch`."""
    check_weights(name, IMAGENET)
    file = cache_folder() / _IMAGENET_FILES[name]
    if not file.exists():
        fetch(_TORCHVISION + file.name, file, sha256=file.stem.rpartition("-")[2], progress=progress)
    return file


def check_tensors(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise InputError, which names them, where tensors are missing, of another shape than `shapes` or not finite."""
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise InputError(f"{source}: {len(missing)} parameters are missing: {some(missing)}")
    wrong = [f"{n} is {tensors[n].shape}, not {shape}" for n, shape in shapes.items() if tensors[n].shape != shape]
    if wrong:
        raise InputError(f"{source}: another architecture? {len(wrong)} shapes differ: {some(wrong)}")
    broken = [name for name in shapes if not np.isfinite(tensors[name]).all()]
    if broken:
        raise InputError(f"{source}: NaN or infinity in {some(broken)}")


def some(items: list[str], most: int = 3) -> str:
    """The first few, and how many more."""
    return ", ".join(items[:most]) + (f", and {len(items) - most} more" if len(items) > most else "")
