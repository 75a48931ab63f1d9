"""Weights that our networks, PyTorch's and the tests' fixtures share: NumPy arrays in PyTorch's order and layouts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Path = tuple[str, ...]


def paths(net: str) -> list[Path]:
    """Where our `net` keeps what PyTorch's `parameters()` lists (`torch_maml.py`), in that order."""
    if net == "conv4":
        blocks: list[tuple[Path, Path]] = [((f"Conv_{n}",), (f"BatchNorm_{n}",)) for n in range(4)]
    else:
        blocks = []
        for stage in range(1, 5):
            name = f"block{stage}"
            blocks += [((name, f"conv{n}"), (name, f"norm{n}")) for n in (1, 2, 3)]
            blocks += [((name, "shortcut_conv"), (name, "shortcut_norm"))]
    found: list[Path] = []
    for conv, norm in blocks:
        found += [(*conv, "kernel"), (*norm, "scale"), (*norm, "bias")]
    return [*found, ("head", "kernel"), ("head", "bias")]


def tree(paths: Sequence[Path], values: Sequence[Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path, value in zip(paths, values, strict=True):
        place = result
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return result


def at(tree: Mapping[str, Any], path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def last_map(net: str, pixels: int) -> int:
    """The side of the map that the head sees: ResNet-12 averages it, conv-4 does not."""
    return pixels // 16 if net == "conv4" else 1


def to_ours(value: np.ndarray, side: int) -> np.ndarray:
    """PyTorch's layout to ours. `side`: of the map under the head's weight, which lists it by channel, row, column."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2:
        return value.reshape(len(value), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(value))
    return value


def from_ours(value: np.ndarray, side: int) -> np.ndarray:
    """The inverse of `to_ours`."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        ways = value.shape[1]
        return value.reshape(side, side, -1, ways).transpose(3, 2, 0, 1).reshape(ways, -1)
    return value


def draw_weights(net: str, ways: int, widths: Sequence[int], channels: int, pixels: int) -> list[np.ndarray]:
    """Float64: kernels with variance 2 / fan-in, scales about 1, biases about 0, always the same."""
    if net == "conv4":
        convs = [(channels, widths[0], 3)] + 3 * [(widths[0], widths[0], 3)]
    else:
        convs = []
        for inputs, width in zip((channels, *widths[:-1]), widths, strict=True):
            convs += [(inputs, width, 3), (width, width, 3), (width, width, 3), (inputs, width, 1)]
    draw = np.random.default_rng(0)
    weights = []
    for inputs, width, kernel in convs:
        weights.append(draw.normal(size=(width, inputs, kernel, kernel)) * np.sqrt(2 / (inputs * kernel**2)))
        weights += [1 + 0.1 * draw.normal(size=width), 0.1 * draw.normal(size=width)]
    features = widths[-1] * last_map(net, pixels) ** 2
    return [*weights, draw.normal(size=(ways, features)) / np.sqrt(features), 0.1 * draw.normal(size=ways)]
