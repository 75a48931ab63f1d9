"""Random tensors under timm's names for a vision transformer, and images to see with it; from NumPy seeds."""

import numpy as np

SIZES = ((224, 224), (48, 80))  # the stored grid of positions, and one that they are resampled to


def timm_tensors(width=384, depth=12, patch=16, grid=14, seed=0, classes=7):
    """As timm's `state_dict` of a `VisionTransformer` has them; large ones, so that attention is uneven."""
    rng = np.random.default_rng(seed)
    draw = lambda std, *shape: (std * rng.standard_normal(shape, np.float32)).astype(np.float32)
    tensors = {"cls_token": draw(0.5, 1, 1, width), "pos_embed": draw(0.5, 1, 1 + grid**2, width)}

    def dense(name, units, *inputs):
        tensors[f"{name}.weight"] = draw(float(np.prod(inputs)) ** -0.5, units, *inputs)
        tensors[f"{name}.bias"] = draw(0.1, units)

    def norm(name):
        tensors[f"{name}.weight"] = 1 + draw(0.2, width)
        tensors[f"{name}.bias"] = draw(0.1, width)

    dense("patch_embed.proj", width, 3, patch, patch)
    for i in range(depth):
        norm(f"blocks.{i}.norm1")
        dense(f"blocks.{i}.attn.qkv", 3 * width, width)
        dense(f"blocks.{i}.attn.proj", width, width)
        norm(f"blocks.{i}.norm2")
        dense(f"blocks.{i}.mlp.fc1", 4 * width, width)
        dense(f"blocks.{i}.mlp.fc2", width, 4 * width)
    norm("norm")
    dense("head", classes, width)
    return tensors


def pictures(h, w, count=1, seed=1):
    return np.random.default_rng(seed).normal(size=(count, h, w, 3)).astype(np.float32)
