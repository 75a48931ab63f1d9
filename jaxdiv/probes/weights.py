"""Files of weights: read without running them, fitted to an architecture, and torchvision's downloaded."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdiv.download import cache_folder, fetch
from jaxdiv.errors import InputError, some
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
# Of two copies of one network in a file, the one that its authors evaluate: MoCo's query encoder, DINO's teacher.
_EVALUATED = {"encoder_q", "teacher"}
# What a parameter's name tells of its architecture, besides torchvision's ResNets and timm's vision transformers.
_NAMES = {
    "denseblock": "a DenseNet",
    "encoder.layers.encoder_layer": "torchvision's vision transformer",
    "attention.attention.query": "a vision transformer of Hugging Face",
    "visual.transformer.resblocks": "a CLIP",
    "stages.": "a ConvNeXt, a RegNet or a ResNet of Hugging Face",
    "features.": "a VGG, a MobileNet, an EfficientNet or a Swin transformer",
}
Shapes = Mapping[str, tuple[int | None, ...]]  # None: any length


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file of safetensors or of `torch.save`, floats as float32; no pickle is executed.

    What a file is, its first bytes say: PyTorch's are called .pth, .pt, .bin, .ckpt, .pth.tar.

    Raises:
      InputError: the file is unusable, also where its name ends with a hash (`-f37072fd`) not its own.
    """
    check_weights("", path)
    if wanted := re.search(r"-([0-9a-f]{8})\.[a-z.]+$", path.name):
        _check_hash(path, wanted[1])
    with path.open("rb") as file:
        head = file.read(9)
    torch = head[:1] == b"\x80" or head[:2] == b"PK" or (path.suffix != ".safetensors" and head[8:] != b"{")
    tensors = read_state_dict(path) if torch else _read_safetensors(path)
    return {k: np.asarray(v, np.float32 if jnp.issubdtype(v.dtype, jnp.floating) else None) for k, v in tensors.items()}


def check_weights(name: str, weights: str | Path) -> None:
    """Raise InputError where the probe `name` has no such weights, as far as that is known without reading any."""
    path = Path(weights)
    if str(weights) == IMAGENET:
        if name not in _IMAGENET_FILES:
            known = ", ".join(_IMAGENET_FILES)
            raise InputError(f"torchvision has no ImageNet weights for {name}, only for {known}: give a file")
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
    """torchvision's ImageNet weights of a probe: cached, or downloaded once.

    Raises:
      InputError: as `fetch`.
    """
    check_weights(name, IMAGENET)
    file = cache_folder() / _IMAGENET_FILES[name]
    if not file.exists():
        fetch(_TORCHVISION + file.name, file, sha256=file.stem.rpartition("-")[2], progress=progress)
    return file


def fit(tensors: Mapping[str, np.ndarray], shapes: Shapes, source: str) -> dict[str, np.ndarray]:
    """A file's tensors under the architecture's own names: those below the one prefix under which it has them all.

    `module.encoder_q.conv1.weight`, `state_dict.model.conv1.weight` or plain `conv1.weight`. Where no prefix fits, the
    tensors below the one that fits best, for `check_tensors` to say what is wrong.

    Raises:
      InputError: the file holds the architecture more than once.
    """
    named: Counter[str] = Counter()
    fitting: Counter[str] = Counter()
    for key, value in tensors.items():
        starts = [0, *(found.end() for found in re.finditer(r"\.", key))]
        for start in starts:
            if (shape := shapes.get(key[start:])) is not None:
                named[key[:start]] += 1
                fitting[key[:start]] += _same(value.shape, shape)
    whole = [prefix for prefix in named if fitting[prefix] == len(shapes)]
    if len(whole) > 1:
        whole = [prefix for prefix in whole if _EVALUATED & {*prefix.split(".")}] or whole
    if len(whole) > 1:
        raise InputError(
            f"{source} holds this architecture {len(whole)} times, below {' and '.join(map(repr, whole))}: save one of "
            f"them in a file of its own"
        )
    best = whole[0] if whole else max(named, key=lambda prefix: (fitting[prefix], named[prefix]), default="")
    return {name.removeprefix(best): value for name, value in tensors.items() if name.startswith(best)}


def check_tensors(fitted: Mapping[str, np.ndarray], shapes: Shapes, source: str, tensors: Mapping[str, Any]) -> None:
    """Raise InputError, which names them, where of `fitted` any are missing, of another shape than `shapes` or not
    finite, and says what there is among all `tensors` of the file."""
    missing = [name for name in shapes if name not in fitted]
    if missing:
        raise InputError(f"{source}: {len(missing)} parameters are missing: {some(missing)}; {_holding(tensors)}")
    wrong = [name for name, shape in shapes.items() if not _same(fitted[name].shape, shape)]
    if wrong:
        named = [f"{name} is {fitted[name].shape}, not {shapes[name]}" for name in wrong]
        raise InputError(
            f"{source}: another architecture? {len(wrong)} shapes differ: {some(named)}; {_holding(tensors)}"
        )
    broken = [name for name in shapes if not np.isfinite(fitted[name]).all()]
    if broken:
        raise InputError(f"{source}: NaN or infinity in {some(broken)}")


def _same(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(w in (None, f) for f, w in zip(found, wanted, strict=True))


def _holding(tensors: Mapping[str, Any]) -> str:
    """What a file holds, in words, to find out which file it is."""
    shown = [f"{name} {tuple(value.shape)}" for name, value in tensors.items()]
    like = resembles({name: tuple(value.shape) for name, value in tensors.items()})
    return f"the file holds {len(shown)} tensors ({some(shown)})" + (f", as {like} has" if like else "")


def resembles(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which architecture the names and shapes of parameters look like, in words; "" where nothing tells."""
    blocks = {found.groups() for name in shapes if (found := re.search(r"\blayer([1-4])\.(\d+)\.conv1\.weight$", name))}
    if len({stage for stage, _ in blocks}) == 4:
        bottleneck = any(re.search(r"\blayer1\.0\.conv3\.weight$", name) for name in shapes)
        counts = ", ".join(str(sum(stage == number for stage, _ in blocks)) for number in "1234")
        kind = "bottleneck" if bottleneck else "basic"
        return f"a ResNet-{len(blocks) * (3 if bottleneck else 2) + 2} ({counts} {kind} blocks)"
    widths = [shape[-1] for name, shape in shapes.items() if re.search(r"\bblocks\.\d+\.attn\.qkv\.weight$", name)]
    if widths:
        return f"a vision transformer of width {widths[0]} and {len(widths)} blocks"
    return next((title for part, title in _NAMES.items() if any(part in name for name in shapes)), "")
