"""Probes by name: random with a seed, or from a `.safetensors` file under torchvision's parameter names."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdiv.errors import InputError, unknown
from jaxdiv.nets.resnet import ARCHITECTURES, Probe, ResNet, feature_count, layers, random_params

# torchvision's leaf name -> our collection and leaf name.
_CONV = {"weight": ("params", "kernel")}
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def load_probe(name: str, weights: str | Path | None = None, seed: int = 0) -> Probe:
    """The probe `name`, one of `resnet18`, `resnet34`, `resnet50`, `resnet50_v1`, `resnet10_narrow`.

    Args:
        name: the architecture.
        weights: a `.safetensors` file with torchvision's names and shapes (any float type; computed in float32), or
            None for random parameters, calibrated as `resnet.random_params` says.
        seed: of the random parameters; unused with `weights`.

    Raises InputError for an unknown name, and for a file that is missing, broken or of another architecture.
    """
    if name not in ARCHITECTURES:
        raise unknown("probe", name, ARCHITECTURES)
    net = ARCHITECTURES[name]
    if weights is None:
        return Probe(name, net, random_params(jax.random.key(seed), net))
    return Probe(name, net, from_torchvision(net, read_tensors(Path(weights)), str(weights)))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a `.safetensors` file, floats as float32. Raises InputError where the file is unusable."""
    if path.suffix in (".pth", ".pt"):
        raise InputError(f"{path}: PyTorch's .pth files are not read yet; convert it to .safetensors")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a .safetensors file with torchvision's parameter names")
    if not path.is_file():
        raise InputError(f"no weights at {path}: expected a .safetensors file with torchvision's parameter names")
    try:
        with safe_open(path, "flax") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated, or not a .safetensors file ({error})") from None
    return {k: np.asarray(v, np.float32 if jnp.issubdtype(v.dtype, jnp.floating) else None) for k, v in tensors.items()}


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
