"""Generated benchmarks: their closed forms against integrals and draws, and measured diversity against the true one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxdiv.configs import default
from jaxdiv.data import prepare, registry, store, synthetic


def make(seed, spread=0.4):
    """Always of one shape, so that it compiles once."""
    return synthetic.generate(jax.random.key(seed), spread, *SHAPE)


SHAPE = (7, 4, 8)  # classes, images, pixels
SETTINGS = {"classes": (3, 2, 2), "images_per_class": 4}


def test_hellinger_equals_the_integral_over_a_latent_line():
    within = 0.3
    centres, others = np.array([[0.0], [0.7], [-0.4]]), np.array([[0.5], [0.6], [1.1]])

    def overlap(c, d):
        # sqrt(p(x, y) q(x, y)), integrated over x and summed over the three labels of weight 1/3 each
        density = lambda x: np.sqrt(stats.norm.pdf(x, c, within) * stats.norm.pdf(x, d, within))
        return integrate.quad(density, -6, 6, points=[(c + d) / 2])[0] / 3

    expected = np.sqrt(1 - sum(overlap(c[0], d[0]) for c, d in zip(centres, others, strict=True)))
    found = synthetic.hellinger(jnp.asarray(centres), jnp.asarray(others), within)
    assert found == pytest.approx(expected, abs=1e-6)  # float32


def test_hellinger_equals_a_monte_carlo_estimate_in_the_latent_space():
    draw = np.random.default_rng(0)
    centres = 0.1 * draw.normal(size=(5, synthetic.LATENTS))
    others = 0.1 * draw.normal(size=(5, synthetic.LATENTS))
    x = centres[:, None] + synthetic.WITHIN_CLASS * draw.normal(size=(5, 40_000, synthetic.LATENTS))
    exponent = lambda c: -((x - c[:, None]) ** 2).sum(-1) / (2 * synthetic.WITHIN_CLASS**2)
    ratio = np.exp((exponent(others) - exponent(centres)) / 2)  # sqrt(q / p) under p
    error = ratio.std() / np.sqrt(ratio.size)
    found = float(synthetic.hellinger(jnp.asarray(centres), jnp.asarray(others)))
    assert error < 3e-3
    assert found**2 == pytest.approx(1 - ratio.mean(), abs=4 * error)


@pytest.mark.parametrize("spreads", [[0.05], [0.25], [1.0], [0.05, 0.4], [0.1, 0.2, 1.6]], ids=str)
def test_true_diversity_is_the_mean_over_sampled_centres(spreads):
    draw = np.random.default_rng(1)
    n = 40_000

    def centres():
        chosen = draw.choice(spreads, size=(n, 1, 1))  # a task of a union picks one of its benchmarks
        return chosen * draw.normal(size=(n, 5, synthetic.LATENTS))

    squared = np.asarray(jax.vmap(synthetic.hellinger)(centres(), centres()), np.float64) ** 2
    error = squared.std() / np.sqrt(n)
    assert synthetic.true_diversity(spreads) ** 2 == pytest.approx(squared.mean(), abs=4 * error + 1e-6)


def test_true_diversity_rises_with_the_spread_from_0_to_1():
    values = [synthetic.true_diversity([s]) for s in np.geomspace(1e-4, 10, 40)]
    assert (np.diff(values) > 0).all()
    assert values[0] < 1e-2 and values[-1] > 0.999


def test_generated_centres_have_the_named_spread():
    for spread in (0.05, 1.6):
        centres = np.stack([make(seed, spread)[1] for seed in range(40)])
        n = centres.size
        # The sum of squares over spread² is chi-square with n degrees of freedom.
        p = stats.chi2.cdf(np.sum(np.square(centres, dtype=np.float64)) / spread**2, n)
        assert 1e-4 < p < 1 - 1e-4
        assert abs(np.mean(centres)) < 4 * spread / np.sqrt(n)


def test_images_of_a_class_vary_by_the_within_class_spread_of_the_closed_form(monkeypatch):
    def latents_as_pixels(z, pixels):
        return jnp.broadcast_to(0.5 + z / 4, (pixels, pixels, synthetic.LATENTS))

    monkeypatch.setattr(synthetic, "_render", latents_as_pixels)
    images, centres = synthetic.generate(jax.random.key(2), 0.11, 6, 100, 23)  # a size no other test compiles
    latents = 4 * (images.mean((2, 3), dtype=np.float64) / 255 - 0.5)
    deviations = latents - np.asarray(centres)[:, None]
    # 4800 deviations: their std is known to 1%; pixel noise adds 4 * 0.03 / 23 in squares, nothing.
    assert deviations.std() == pytest.approx(synthetic.WITHIN_CLASS, rel=0.05)
    assert abs(deviations.mean()) < 4 * synthetic.WITHIN_CLASS / np.sqrt(deviations.size)


def test_same_key_same_images_and_another_key_others():
    np.testing.assert_array_equal(make(0)[0], make(0)[0])
    assert (make(0)[0] != make(1)[0]).mean() > 0.5


def test_prepared_benchmarks_repeat_by_seed_and_share_no_draw(tmp_path):
    settings = prepare.DataSettings(**SETTINGS)

    def make(name, settings=settings):
        prepare.prepare_base_set(name, 8, settings, tmp_path / name)
        return np.array(store.read_table(tmp_path / name).images)

    np.testing.assert_array_equal(make("gauss-0.4"), make("gauss-0.4"))
    other = prepare.DataSettings(**SETTINGS, seed=1)
    assert (make("gauss-0.4") != make("gauss-0.4", other)).mean() > 0.5
    # Almost the same spread: had they shared their normal draws, the images would be almost the same too.
    difference = np.abs(make("gauss-0.4").astype(int) - make("gauss-0.41"))
    assert difference.mean() > 10


def test_images_are_whole_not_clipped_and_fill_the_range():
    images, _ = make(0, 0.6)
    assert images.shape == (7, 4, 8, 8, 3) and images.dtype == np.uint8
    assert ((images == 0) | (images == 255)).mean() < 0.1
    assert images.std() > 20


@pytest.mark.parametrize("name", ["gauss-", "gauss-x", "gauss--1", "gauss-0", "gauss-inf", "gauss-nan", "gauss"])
def test_a_name_without_a_positive_finite_spread_is_no_generated_benchmark(name):
    assert synthetic.spread(name) is None


def test_measured_diversity_ranks_the_default_benchmarks_as_the_true_one(tmp_path):
    """The study's claim, with 5 tasks a benchmark instead of 12, as a user runs it: XLA optimises what mostly runs."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    line = ["launch.py", "--stages=prepare,diversity", "--config.probe.tasks=5", f"--workdir={tmp_path}"]
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "compiled")
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr
    found = {}
    for path in (tmp_path / "units" / "diversity").rglob("result.json"):
        row = json.loads(path.read_text())["result"]
        found[row["benchmark"]] = row["diversity"]
    assert set(found) == set(default.get_config().benchmarks) and len(found) == 8
    pairs = [(registry.true_diversity(name), found[name]) for name in found]
    assert stats.spearmanr(pairs).statistic >= 0.9, sorted(pairs)
