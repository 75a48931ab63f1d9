"""What `bench/task2vec.py` measures jaxdiv against: Task2Vec in PyTorch, in the ways that PyTorch offers.

`reference`: the procedure of aws-cv-task2vec as the group used it, less its data loaders. The others compute what
jaxdiv computes, batch norm frozen and the head converged, by per-sample gradients: `torch.func` (vmap over images),
`loop` (`autograd.grad`, one image at a time) and `BackPACK` (https://backpack.pt, DiagGGNExact and DiagGGNMC).
"""

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch_vit import ViT

BATCH, BATCHES, EPOCHS = 64, 156, 10  # the reference's


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.relu2 = nn.ReLU()
        projection = nn.Conv2d(inputs, filters, 1, stride, bias=False)
        same = stride == 1 and inputs == filters
        self.downsample = nn.Identity() if same else nn.Sequential(projection, nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet18(nn.Module):
    """torchvision's ResNet-18 under its names; no ReLU is in place or used twice, which BackPACK asks for."""

    def __init__(self, ways: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (64, 64, 128, 256, 512)
        for n in range(1, 5):
            first = Block(widths[n - 1], widths[n], 1 if n == 1 else 2)
            setattr(self, f"layer{n}", nn.Sequential(first, Block(widths[n], widths[n], 1)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512, ways)

    def features(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.flatten(self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def commands(peer: str, estimator: str, job: Mapping[str, Any]) -> tuple[dict[str, Callable[..., Any]], str]:
    """What the worker of one row can be asked for, and a note on how it was set up."""
    torch.set_num_threads(job["threads"])
    warnings.filterwarnings("ignore", "Full backward hook is firing")
    images = torch.from_numpy(job["images"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(job["labels"]).long()
    if job["probe"] == "vit_small" and peer == "BackPACK":
        raise LookupError("it knows no attention")
    model = ResNet18(job["ways"]) if job["probe"] == "resnet18" else ViT(classes=job["ways"])
    unknown = model.load_state_dict({k: torch.from_numpy(v) for k, v in job["tensors"].items()}, strict=False)
    assert not unknown.unexpected_keys and all("fc." in k or "num_b" in k for k in unknown.missing_keys), unknown
    if estimator == "reference":
        reference(model, images, labels, 1, 0)  # a first call of anything is slow
        return {"run": partial(reference, model, images, labels, job["reference_batches"])}, ""
    model.eval()
    if peer == "loop" and job["probe"] == "resnet18":
        model = model.to(memory_format=torch.channels_last)  # measured: up to a third faster here, not elsewhere
        images = images.to(memory_format=torch.channels_last)
    squares, set_head, chunks = PEERS[peer](model, estimator)

    def fisher(head: Sequence[np.ndarray], chunk: int = 0, seed: int = 0, count: int = len(images)) -> np.ndarray:
        torch.manual_seed(seed)
        set_head(torch.tensor(head[0].T), torch.tensor(head[1]))
        parts = [squares(part) for part in images[:count].split(chunk or best)]
        return (torch.stack(parts).sum(0) / count).numpy()

    def run(seed: int) -> tuple[np.ndarray, float]:
        with torch.inference_mode():
            features = torch.cat([model.features(part) for part in images.split(25)])
        return fisher(fit_head(features, labels, job["ways"]), seed=seed), 0.0

    # First calls are slow: an optimiser's takes seconds. Then the fastest of several chunk sizes counts.
    best = 1
    fit_head(model.features(images[:25]).detach(), labels[:25], job["ways"])
    blank = np.zeros((model.fc.in_features, job["ways"]), np.float32), np.zeros(job["ways"], np.float32)
    few = min(max(chunks), len(images))
    fisher(blank, 1, count=1)
    seconds = {}
    for chunk in (c for c in chunks if c <= few):
        start = time.perf_counter()
        fisher(blank, chunk, count=few)
        seconds[chunk] = time.perf_counter() - start
        if len(chunks) == 1 or seconds[chunk] > 1.2 * min(seconds.values()):
            break
    best = min(seconds, key=seconds.__getitem__)
    return {"run": run, "fisher": fisher}, f"{best} image{'s' * (best > 1)} at a time"


def reference(model: nn.Module, images: Tensor, labels: Tensor, batches: int, seed: int) -> tuple[np.ndarray, float]:
    """The group's procedure -> embedding, and the seconds that the batches left out of BATCHES would have taken."""
    torch.manual_seed(seed)
    balanced = (1 / labels.bincount().float())[labels]
    draw = lambda: torch.multinomial(balanced, BATCH, replacement=True)
    model.train()
    with torch.no_grad():
        features = torch.cat([model.features(part) for part in images.split(BATCH)])
    model.fc = nn.Linear(model.fc.in_features, model.fc.out_features)
    adam = torch.optim.Adam(model.fc.parameters(), lr=4e-4, weight_decay=1e-4)
    for _ in range(EPOCHS * BATCHES):
        chosen = draw()
        adam.zero_grad()
        F.cross_entropy(model.fc(features[chosen]), labels[chosen]).backward()
        adam.step()
    squares = {p: torch.zeros_like(p) for p in model.parameters()}
    start = time.perf_counter()
    for _ in range(batches):
        logits = model(images[draw()])
        drawn = torch.multinomial(logits.detach().softmax(1), 1)[:, 0]
        model.zero_grad()
        F.cross_entropy(logits, drawn).backward()
        for p in squares:
            squares[p] += p.grad**2
    left_out = (time.perf_counter() - start) / batches * (BATCHES - batches)
    found = torch.cat([_per_filter(squares[p]) for p in _weights(model).values()]) / batches
    return found.numpy(), left_out


def fit_head(features: Tensor, labels: Tensor, ways: int) -> tuple[np.ndarray, np.ndarray]:
    """The head that jaxdiv fits, L2 logistic regression with C = 1, by L-BFGS."""
    x = features.double()
    mean = x.mean(0)
    kernel = torch.zeros(x.shape[1], ways, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(ways, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([kernel, bias], max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        logits = (x - mean) @ kernel + bias
        loss = F.cross_entropy(logits, labels, reduction="sum") + 0.5 * (kernel**2).sum()
        loss.backward()
        return loss

    solver.step(closure)
    bias = (bias - mean @ kernel).detach()
    return kernel.detach().float().numpy(), bias.float().numpy()


def columns(probabilities: Tensor, estimator: str) -> Tensor:
    """Score vectors `[columns, ways]` of one image: stick-breaking as in `jaxdiv.task2vec.fisher`, or a mixture."""
    order = probabilities.argsort()
    p = probabilities[order]
    tail = p.flip(0).cumsum(0).flip(0)
    first, rest = p[:-1], tail[1:]
    below = -(first / (tail[:-1] * rest)).sqrt()[:, None] * p
    place = torch.arange(len(p)) - torch.arange(len(p) - 1)[:, None]
    diagonal = (first * rest / tail[:-1]).sqrt()[:, None]
    found = torch.where(place == 0, diagonal, torch.where(place > 0, below, 0.0))[:, order.argsort()]
    if estimator == "exact":
        return found
    signs = 2 * torch.randint(2, (len(found), 1)).to(found.dtype) - 1
    return (signs * found).sum(0, keepdim=True)


def _func(model: nn.Module, estimator: str):
    """vmap over images of the vector-Jacobian products. Columns in a loop: a second vmap took 1.4 to 2 times longer."""
    weights = {name: p.detach() for name, p in _weights(model).items()}
    frozen = {n: t.detach() for n, t in [*model.named_parameters(), *model.named_buffers()] if n not in weights}

    def of_image(x: Tensor) -> Tensor:
        logits, backward = vjp(lambda w: functional_call(model, (w, frozen), x[None])[0], weights)
        rows = columns(logits.softmax(0), estimator)
        return torch.stack([torch.cat([_squares(g) for g in backward(row)[0].values()]) for row in rows]).sum(0)

    def squares(part: Tensor) -> Tensor:
        with torch.no_grad():
            return vmap(of_image, randomness="different")(part).sum(0)

    def set_head(kernel: Tensor, bias: Tensor) -> None:
        frozen.update({"fc.weight": kernel, "fc.bias": bias})

    return squares, set_head, (1, 2, 4, 8)


def _loop(model: nn.Module, estimator: str):
    weights = list(_weights(model).values())

    def squares(part: Tensor) -> Tensor:
        (image,) = part
        logits = model(image[None])[0]
        rows = columns(logits.detach().softmax(0), estimator)
        found = torch.zeros(())
        for n, row in enumerate(rows, 1):
            gradients = torch.autograd.grad(logits, weights, row, retain_graph=n < len(rows))
            found = found + torch.cat([_squares(g) for g in gradients])
        return found

    return squares, partial(_set_head, model), (1,)


def _backpack(model: nn.Module, estimator: str):
    from backpack import backpack, extend
    from backpack.extensions import DiagGGNExact, DiagGGNMC

    model = copy.deepcopy(model)
    wanted = _weights(model)
    for name, p in model.named_parameters():
        p.requires_grad_(name in wanted)  # no squares of biases
    extended = extend(model, use_converter=True).eval()
    loss = extend(nn.CrossEntropyLoss(reduction="sum"))
    extension, field = {"exact": (DiagGGNExact, "diag_ggn_exact"), "mc": (DiagGGNMC, "diag_ggn_mc")}[estimator]

    def squares(part: Tensor) -> Tensor:
        extended.zero_grad()
        with backpack(extension()):
            loss(extended(part), torch.zeros(len(part), dtype=torch.long)).backward()  # no curvature depends on labels
        weights = _weights(extended)
        assert list(weights) == list(wanted)
        return torch.cat([_per_filter(getattr(p, field)) for p in weights.values()])

    return squares, partial(_set_head, extended), (1, 2, 4, 8, 16)


PEERS = {"torch.func": _func, "loop": _loop, "BackPACK": _backpack}


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those with an entry in the embedding, in its order."""
    skipped = lambda name: name.startswith("fc.") or "norm" in name  # a transformer's layer norms; ResNets' are "bn"
    return {n: p for n, p in model.named_parameters() if n.endswith("weight") and not skipped(n)}


def _per_filter(squares: Tensor) -> Tensor:
    return squares.flatten(1).mean(1) if squares.ndim > 1 else squares


def _squares(gradient: Tensor) -> Tensor:
    """As `_per_filter(gradient**2)`, which takes ten times longer than this one pass over a contiguous kernel."""
    if gradient.ndim == 1:
        return gradient**2
    return torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.ndim))) ** 2 / gradient[0].numel()


def _set_head(model: Any, kernel: Tensor, bias: Tensor) -> None:
    model.fc.weight.data.copy_(kernel)
    model.fc.bias.data.copy_(bias)
