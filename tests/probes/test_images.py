"""What calls ask of the images they are given: unnormalised ones get one line, nothing of the study does."""

import re
import zipfile
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
import pytest
from random_probe import CASES, WAYS, setting, warned

from jaxdiv import load_benchmark, sample_tasks
from jaxdiv.data import registry
from jaxdiv.data.decode import decoder
from jaxdiv.data.table import make_table
from jaxdiv.probes import images as images_of_probes
from jaxdiv.probes.images import check_numbers, inspect
from jaxdiv.probes.resnet_probe import ResNetProbe
from jaxdiv.task2vec import embed, fisher


@pytest.fixture
def unwarned():
    """As in a process that has not warned yet."""
    images_of_probes._warn_once.cache_clear()
    yield
    images_of_probes._warn_once.cache_clear()


PUBLIC = {
    "embed": lambda probe, images, labels, head: embed.embed(probe, images, labels, WAYS),
    "fisher": lambda probe, images, labels, head: fisher.fisher(probe, images, head),
    "pooled_features": lambda probe, images, labels, head: fisher.pooled_features(probe, images),
    "embed_tasks": lambda probe, images, labels, head: embed.embed_tasks(probe, images[None], labels[None], WAYS),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_unnormalised_images_get_one_warning_of_each_kind_that_says_what_to_do(unwarned, name):
    probe, images, head = setting(*CASES["basic blocks"])
    labels = np.arange(5) % WAYS
    pixels = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.float32)
    call = lambda given: warned(lambda: PUBLIC[name](probe, given, labels, head))
    assert call(images) == []
    (of_bytes,) = call(pixels)
    assert "0..255" in of_bytes and "(images / 255 - mean) / std" in of_bytes and "\n" not in of_bytes
    (of_shares,) = call(pixels / 255)
    assert "0..1" in of_shares and "(images - mean) / std" in of_shares and "\n" not in of_shares
    for text in (of_bytes, of_shares):  # the numbers that a user copies from it
        mean, std = re.findall(r"\([\d.]+, [\d.]+, [\d.]+\)", text)
        assert (mean, std) == (str(registry._IMAGENET.mean), str(registry._IMAGENET.std))
    assert call(pixels) == call(pixels / 255) == []


def test_a_warning_names_the_line_of_the_user(unwarned):
    probe, images, head = setting(*CASES["basic blocks"])
    with pytest.warns(UserWarning, match="0..255") as caught:
        fisher.fisher(probe, 100 * abs(images), head)
    assert caught[0].filename == __file__


def test_nothing_is_looked_at_or_warned_of_inside_jit(unwarned):
    probe, images, head = setting(*CASES["basic blocks"])
    inside = jax.jit(lambda pixels: fisher.fisher(probe, pixels, head))
    assert warned(lambda: inside(100 * abs(images))) == []


def test_images_are_looked_at_once_however_many_parts_take_them(unwarned, monkeypatch):
    probe, images, _ = setting(*CASES["basic blocks"])
    looks = []
    look = ResNetProbe.check_numbers
    monkeypatch.setattr(ResNetProbe, "check_numbers", lambda probe, seen: looks.append(1) or look(probe, seen))
    embed.embed(probe, images, np.arange(5) % WAYS, WAYS)
    assert len(looks) == 1
    embed.embed_tasks(probe, images[None], (np.arange(5) % WAYS)[None], WAYS)
    assert len(looks) == 2


def drawings(pixels, ink):
    """White sheets with a dark stroke over `ink` of their height, as Omniglot's are stored."""
    images = np.full((20, pixels, pixels, 1), 255, np.uint8)
    images[:, : round(ink * pixels)] = 0
    return images


@pytest.mark.parametrize("base", [*registry.BASE_SETS, registry.OWN, "gauss-0.1", "gauss-1.6"])
@pytest.mark.parametrize("alone", [True, False])
def test_no_task_of_the_study_is_taken_for_unnormalised(unwarned, base, alone):
    """Any photograph, with the mean and std of its data set: here noise over the whole range; drawings; generated."""
    if base.startswith("gauss"):
        table = load_benchmark(base, pixels=16)
    else:
        noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
        gray = base in registry.BASE_SETS and registry.BASE_SETS[base].gray
        look = registry.preprocessing(base, alone)
        table = make_table([drawings(16, 0.36) if gray else noise] * 5, list("abcde"), look.mean, look.std)
    task = sample_tasks(jax.random.key(0), table, augment=True)
    assert warned(lambda: check_numbers(inspect(task.query_images[0]))) == []


def test_omniglot_is_not_taken_for_unnormalised_even_at_the_smallest_size(unwarned, real):
    """There strokes spread over most of the pixels."""
    drawings, read = defaultdict(list), decoder(8, gray=True)
    with zipfile.ZipFile(real / "omniglot_png.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".png"))[:2000]:
            drawings[Path(name).parent].append(read(archive.read(name), name))
    look = registry.preprocessing("omniglot", True)
    table = make_table(list(map(np.stack, drawings.values())), list(map(str, drawings)), look.mean, look.std)
    for images in sample_tasks(jax.random.key(0), table, tasks=200).query_images:
        assert warned(lambda images=images: check_numbers(inspect(images))) == []
