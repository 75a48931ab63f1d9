"""Generated benchmarks whose true diversity is known in closed form.

A class is a Gaussian N(c, σ²I) in an 8-dimensional latent space, its centre drawn from N(0, s²I); an image renders one
latent as a blob over a grating. As in the group's synthetic study, raising `s` raises the diversity.

A task with uniform labels y is the distribution p(x, y) = N(x; c_y, σ²I) / ways. The squared Hellinger distance
between two tasks is then exactly `1 - mean_y exp(-|c_y - c'_y|² / 8σ²)`, and its expectation over centres drawn from
N(0, s²I) and N(0, t²I) is `1 - (1 + (s² + t²) / 4σ²)^(-d/2)`: a Gaussian integral.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LATENTS = 8
WITHIN_CLASS = 0.2  # σ: the spread of a class's own images
PREFIX = "gauss-"
_LEAST, _MOST = 1e-6, 1000.0
_NAME = re.compile(PREFIX + r"(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?")


def spread(name: str) -> float | None:
    """The `s` of a generated benchmark's name (`gauss-0.25` -> 0.25), above 0 and at most 1000; None for any other."""
    if not _NAME.fullmatch(name):
        return None
    value = float(name.removeprefix(PREFIX))
    return value if _LEAST <= value <= _MOST else None


def true_diversity(spreads: list[float]) -> float:
    """The root of the expected squared Hellinger distance (0..1) between two tasks of a benchmark, or of a union:
    each task then picks one of `spreads` uniformly."""
    s = np.square(np.asarray(spreads, np.float64))
    overlap = (1 + (s[:, None] + s[None, :]) / (4 * WITHIN_CLASS**2)) ** (-LATENTS / 2)
    return float(np.sqrt(1 - overlap.mean()))


def hellinger(
    centres: Float[Array, "ways latents"], others: Float[Array, "ways latents"], within: float = WITHIN_CLASS
) -> Float[Array, ""]:
    """The Hellinger distance between two tasks given the latent centres of their classes, in label order."""
    squared = jnp.sum((centres - others) ** 2, -1)
    return jnp.sqrt(1 - jnp.mean(jnp.exp(-squared / (8 * within**2))))


def generate(
    key: Array, spread: float, classes: int, images: int, pixels: int
) -> tuple[np.ndarray, Float[Array, "classes latents"]]:
    """Images `[classes, images, pixels, pixels, 3]` uint8 of one benchmark, and the centres of its classes."""
    rendered, centres = _generate(key, spread, classes, images, pixels)
    return np.asarray(rendered), centres


@partial(jax.jit, static_argnums=(2, 3, 4))
def _generate(key, spread, classes, images, pixels):
    for_centres, for_images = jax.random.split(key)
    centres = spread * jax.random.normal(for_centres, (classes, LATENTS))
    keys = jax.random.split(for_images, (classes, images))
    return jax.vmap(jax.vmap(partial(_image, pixels=pixels), (0, None)))(keys, centres), centres


def _image(key, centre, pixels):
    for_latent, for_noise = jax.random.split(key)
    image = _render(centre + WITHIN_CLASS * jax.random.normal(for_latent, (LATENTS,)), pixels)
    noisy = image + 0.03 * jax.random.normal(for_noise, image.shape)
    return jnp.round(255 * jnp.clip(noisy, 0, 1)).astype(jnp.uint8)


def _render(z, pixels):
    """A blob (colour z0-z2, place z3-z4, size z5) over a gray grating (direction z6, frequency z7), in 0..1."""
    y, x = jnp.meshgrid(*2 * [(jnp.arange(pixels) + 0.5) / pixels - 0.5], indexing="ij")
    angle, frequency = jnp.pi / 4 + z[6], 3 * jnp.exp(0.5 * z[7])
    wave = jnp.cos(2 * jnp.pi * frequency * (x * jnp.cos(angle) + y * jnp.sin(angle)))
    grating = 0.5 + 0.15 * wave[..., None]
    distance = jnp.hypot(x - 0.3 * jnp.tanh(z[3]), y - 0.3 * jnp.tanh(z[4]))
    radius = 0.25 * jnp.exp(0.5 * z[5])
    blob = jax.nn.sigmoid((radius - distance) * pixels / 2)[..., None]
    return grating * (1 - blob) + blob * (0.5 + 0.45 * jnp.tanh(z[:3]))
