"""MAML in PyTorch, in the ways that PyTorch offers: what `bench/maml.py` and the tests' fixtures hold jaxdiv against.

`learn2learn` (0.2.0, `MAML.clone` and `adapt`), `higher` (0.2.1, `innerloop_ctx`), and `torch.func` (vmapped over
tasks, a loop over tasks, and that loop compiled). All take the same nets, whose batch norm always uses the batch's own
statistics, and give the mean meta-gradient over the tasks.
"""

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

Tasks = Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]  # support images and labels, query images and labels
MetaStep = Callable[[], tuple[Tensor, list[Tensor]]]


def _norm(filters: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(filters, track_running_stats=False)


class Conv4(nn.Module):
    """The order of its parameters: each block's kernel, scale, bias; the head's weight, bias. All nets keep to it."""

    def __init__(self, ways: int, width: int, pixels: int, channels: int):
        super().__init__()
        blocks = []
        for inputs in (channels, width, width, width):
            blocks += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), _norm(width), nn.ReLU(), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width * (pixels // 16) ** 2, ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x).flatten(1))


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, filters, 3, padding=1, bias=False), _norm(filters)
        self.conv2, self.bn2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False), _norm(filters)
        self.conv3, self.bn3 = nn.Conv2d(filters, filters, 3, padding=1, bias=False), _norm(filters)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, filters, 1, bias=False), _norm(filters))

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.bn1(self.conv1(x)), 0.1)
        out = F.leaky_relu(self.bn2(self.conv2(out)), 0.1)
        out = F.leaky_relu(self.bn3(self.conv3(out)) + self.downsample(x), 0.1)
        return F.max_pool2d(out, 2)


class ResNet12(nn.Module):
    """Tian et al. 2020, without dropout and DropBlock, which draw differently everywhere."""

    def __init__(self, ways: int, widths: Sequence[int]):
        super().__init__()
        self.layers = nn.Sequential(*(Block(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True)))
        self.fc = nn.Linear(widths[-1], ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean((2, 3)))


def make(net: str, ways: int, widths: Sequence[int], pixels: int, channels: int, weights: Sequence[np.ndarray]):
    """`net` with `weights`, in the order of `parameters()` and PyTorch's layouts, in their precision."""
    model = Conv4(ways, widths[0], pixels, channels) if net == "conv4" else ResNet12(ways, widths)
    model = model.to(torch.from_numpy(weights[0]).dtype)
    for parameter, value in zip(model.parameters(), weights, strict=True):
        parameter.data.copy_(torch.from_numpy(value))
    return model


def as_tasks(arrays: Sequence[np.ndarray]) -> Tasks:
    """Support images `[tasks, n, h, w, c]`, labels, query images, labels -> per task, as PyTorch has them."""
    images = lambda a: torch.from_numpy(np.ascontiguousarray(a.transpose(0, 1, 4, 2, 3)))
    labels = lambda a: torch.from_numpy(a).long()
    support, targets, query, answers = arrays
    return list(zip(images(support), labels(targets), images(query), labels(answers), strict=True))


def learn2learn_at(folder: str) -> Any:
    """learn2learn's MAML from its unpacked sources. The package cannot be imported whole: its data sets need Cython
    parts that no longer build, so its `__init__` files are passed over; the code of the method is untouched."""
    if "learn2learn" not in sys.modules:
        root = Path(folder) / "learn2learn"
        if not (root / "algorithms" / "maml.py").is_file():
            raise FileNotFoundError(f"no learn2learn/algorithms/maml.py in {folder}")
        for name, path in (("learn2learn", root), ("learn2learn.algorithms", root / "algorithms")):
            package = types.ModuleType(name)
            package.__path__ = [str(path)]
            sys.modules[name] = package
    from learn2learn.algorithms.maml import MAML

    return MAML


def learn2learn(model: nn.Module, tasks: Tasks, steps: int, rate: float, first_order: bool, folder: str) -> MetaStep:
    maml = learn2learn_at(folder)(model, lr=rate, first_order=first_order)

    def meta_step() -> tuple[Tensor, list[Tensor]]:
        maml.zero_grad()
        total = torch.zeros(())
        for x, y, queries, answers in tasks:
            learner = maml.clone()
            for _ in range(steps):
                learner.adapt(F.cross_entropy(learner(x), y))
            loss = F.cross_entropy(learner(queries), answers) / len(tasks)
            loss.backward()
            total = total + loss.detach()
        return total, [p.grad for p in model.parameters()]

    return meta_step


def higher(model: nn.Module, tasks: Tasks, steps: int, rate: float, first_order: bool) -> MetaStep:
    import higher

    optimizer = torch.optim.SGD(model.parameters(), lr=rate)

    def meta_step() -> tuple[Tensor, list[Tensor]]:
        total, sums = torch.zeros(()), [torch.zeros_like(p) for p in model.parameters()]
        for x, y, queries, answers in tasks:
            with higher.innerloop_ctx(
                model, optimizer, copy_initial_weights=False, track_higher_grads=not first_order
            ) as (functional, inner):
                for _ in range(steps):
                    inner.step(F.cross_entropy(functional(x), y))
                loss = F.cross_entropy(functional(queries), answers) / len(tasks)
                # Without its graph the adapted parameters do not lead back to the initial ones, whose gradient would
                # silently be zero: first order takes it at the adapted ones.
                at = list(functional.parameters()) if first_order else list(model.parameters())
                gradients = torch.autograd.grad(loss, at)
            total = total + loss.detach()
            torch._foreach_add_(sums, gradients)
        return total, sums

    return meta_step


def _func_gradient(model: nn.Module, steps: int, rate: float, first_order: bool):
    """`(parameters, task) -> (gradient, loss)` of one task, by function transforms."""

    def loss(params, x, y):
        return F.cross_entropy(functional_call(model, params, (x,)), y)

    def meta_loss(params, x, y, queries, answers):
        for _ in range(steps):
            slopes = grad(loss)(params, x, y)
            if first_order:
                slopes = {name: slope.detach() for name, slope in slopes.items()}
            params = {name: p - rate * slopes[name] for name, p in params.items()}
        return loss(params, queries, answers)

    return grad_and_value(meta_loss)


def func_vmap(model: nn.Module, tasks: Tasks, steps: int, rate: float, first_order: bool) -> MetaStep:
    each = vmap(_func_gradient(model, steps, rate, first_order), in_dims=(None, 0, 0, 0, 0))
    params = {name: p.detach() for name, p in model.named_parameters()}
    stacked = [torch.stack(part) for part in zip(*tasks, strict=True)]

    def meta_step() -> tuple[Tensor, list[Tensor]]:
        gradients, losses = each(params, *stacked)
        return losses.mean(), [g.mean(0) for g in gradients.values()]

    return meta_step


def func_loop(
    model: nn.Module, tasks: Tasks, steps: int, rate: float, first_order: bool, compiled: bool = False
) -> MetaStep:
    one = _func_gradient(model, steps, rate, first_order)
    if compiled:
        one = torch.compile(one)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def meta_step() -> tuple[Tensor, list[Tensor]]:
        total, sums = torch.zeros(()), [torch.zeros_like(p) for p in params.values()]
        for task in tasks:
            gradients, loss = one(params, *task)
            total = total + loss / len(tasks)
            torch._foreach_add_(sums, list(gradients.values()), alpha=1 / len(tasks))
        return total, sums

    return meta_step


def func_compiled(*how: Any) -> MetaStep:
    return func_loop(*how, compiled=True)


PEERS: Mapping[str, Callable[..., MetaStep]] = {
    "learn2learn": learn2learn,
    "higher": higher,
    "torch.func vmap": func_vmap,
    "torch.func loop": func_loop,
    "torch.func compiled": func_compiled,
}
