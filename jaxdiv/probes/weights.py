"""Probes by name: random with a seed, or from a file of torchvision's or timm's weights (the names are the same)."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdiv.download import cache_folder, fetch
from jaxdiv.errors import InputError, unknown
from jaxdiv.nets.torch_file import read_state_dict
from jaxdiv.probes.resnet import ARCHITECTURES, Probe, ResNet, feature_count, layers, random_params

IMAGENET = "imagenet"
# torchvision's IMAGENET1K_V1 files; a name ends with the first 8 digits of its sha256.
_TORCHVISION = "https://download.pytorch.org/models/"
_IMAGENET_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
}
_KINDS = "a .safetensors or .pth file with torchvision's parameter names"

# torchvision's leaf name -> our collection and leaf name.
_CONV = {"weight": ("params", "kernel")}
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def load_probe(
    name: str,
    weights: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Probe:
    """The probe `name`, one of `resnet18`, `resnet34`, `resnet50`, `resnet50_v1`, `resnet10_narrow`.

    Args:
        name: the architecture.
        weights: a `.safetensors` or `.pth` file with torchvision's or timm's names and shapes (any float type; computed
            in float32); `"imagenet"` for torchvision's, downloaded once into `download.cache_folder()`; or None for
            random parameters, calibrated as `resnet.random_params` says.
        seed: of the random parameters; unused with `weights`.
        progress: called with the downloaded share, 0..1; None: a bar in a terminal or a notebook.

    Raises InputError for an unknown name, and for a file that is missing, broken or of another architecture.
    """
    if name not in ARCHITECTURES:
        raise unknown("probe", name, ARCHITECTURES)
    net = ARCHITECTURES[name]
    if weights is None:
        return Probe(name, net, random_params(jax.random.key(seed), net))
    path = imagenet_file(name, progress) if str(weights) == IMAGENET else Path(weights)
    return Probe(name, net, from_torchvision(net, read_tensors(path), str(path)))


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


def from_torchvision(net: ResNet, tensors: dict[str, np.ndarray], source: str = "weights") -> dict[str, Any]:
    """torchvision's tensors (OIHW kernels) -> `Probe.params`, with the classifier `fc` where it is there.

    Raises InputError that names what is missing, of another shape or not finite.
    """
    wanted: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = []
    for layer in layers(net):
        kernel = (layer.filters, layer.inputs, layer.kernel, layer.kernel)
        for module, table, shape in ((layer.conv, _CONV, kernel), (layer.norm, _NORM, (layer.filters,))):
            for leaf, (collection, ours) in table.items():
                wanted.append((f"{module}.{leaf}", (collection, *module.split("."), ours), shape))
    missing = [name for name, _, _ in wanted if name not in tensors]
    if missing:
        raise InputError(f"{source}: {len(missing)} parameters are missing: {_some(missing)}")
    wrong = [f"{n} is {tensors[n].shape}, not {shape}" for n, _, shape in wanted if tensors[n].shape != shape]
    if wrong:
        raise InputError(f"{source}: another architecture? {len(wrong)} shapes differ: {_some(wrong)}")
    broken = [name for name, _, _ in wanted if not np.isfinite(tensors[name]).all()]
    if broken:
        raise InputError(f"{source}: NaN or infinity in {_some(broken)}")
    params: dict[str, Any] = {}
    for name, path, _ in wanted:
        value = tensors[name]
        _put(params, path, value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    if "fc.weight" in tensors:
        params["fc"] = _classifier(net, tensors, source)
    return jax.tree.map(jnp.asarray, params)


def _classifier(net: ResNet, tensors: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    kernel = tensors["fc.weight"]
    bias = tensors.get("fc.bias", np.zeros(kernel.shape[0], np.float32))
    if kernel.shape != (len(bias), feature_count(net)):
        shapes = f"fc.weight is {kernel.shape} and fc.bias {bias.shape}"
        raise InputError(f"{source}: {shapes}, not (classes, {feature_count(net)}) and (classes,)")
    return {"kernel": kernel.T, "bias": bias}


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for step in path[:-1]:
        tree = tree.setdefault(step, {})
    tree[path[-1]] = value


def _some(items: list[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (f", and {len(items) - most} more" if len(items) > most else "")
