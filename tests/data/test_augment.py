"""The train augmentation against PIL on real images and against torchvision's own rule for its random numbers."""

import io
import os
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from jaxdiv.data import augment
from jaxdiv.data.augment import Augmentation, Draw, draw
from jaxdiv.data.episodes import sample_batch, sample_tasks
from jaxdiv.data.table import make_table, union

adjust, apply, augment_images, resample = map(
    jax.jit, (augment.adjust, augment.apply, augment.augment_images, augment.resample)
)
SIDE = 84
STUDY = Augmentation(0.18, 8 / 84, 0.4, True)
UNLIKELY = 1e-3  # p-values below it fail; keys are fixed, so a test that passes always passes


@pytest.fixture(scope="module")
def photographs():
    """Eight of them: real ones where there are any, otherwise waves of every direction and length under noise."""
    given = os.environ.get("JAXDIV_TEST_DATA")
    if given:
        with tarfile.open(Path(given) / "miniimagenet_sample.tar") as tar:
            files = [m for m in tar if m.isfile()][::750]
            images = [Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB") for m in files]
        return [image.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in images]
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [128 + 90 * np.sin(2 * np.pi * (rng.normal(0, 6) * x + rng.normal(0, 6) * y)) for _ in range(24)]
    noisy = [np.clip(wave + rng.normal(0, 12, wave.shape), 0, 255) for wave in waves]
    return [Image.fromarray(np.stack(noisy[3 * i : 3 * i + 3], -1).astype(np.uint8)) for i in range(8)]


def drawn(box=(0, 0, SIDE, SIDE), shift=(0, 0), flip=False, order=(0, 1, 2), factors=(1.0, 1.0, 1.0)):
    return Draw(jnp.array(box), jnp.array(shift), jnp.bool_(flip), jnp.array(order), jnp.array(factors))


def pixels(image):
    return np.asarray(image).astype(np.uint8)


@pytest.mark.parametrize("box", [(0, 0, 84, 84), (10, 3, 40, 53), (47, 44, 37, 40), (0, 50, 62, 34), (83, 83, 1, 1)])
def test_a_box_is_stretched_as_pil_stretches_a_crop(photographs, box):
    top, left, height, width = box
    for image in photographs:
        expected = image.crop((left, top, left + width, top + height)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        found = 255 * resample(pixels(image), drawn(box))
        # PIL rounds after the rows and after the columns, each by half a level, in fixed point.
        assert np.abs(found - pixels(expected)).max() <= 1.05


@pytest.mark.parametrize(("down", "right"), [(0, 0), (8, -8), (-3, 5), (-8, -8)])
def test_a_padded_crop_is_pils_exactly(photographs, down, right):
    for image in photographs:
        expected = ImageOps.expand(image, 8).crop((8 + right, 8 + down, 8 + right + SIDE, 8 + down + SIDE))
        found = 255 * resample(pixels(image), drawn(shift=(down, right)))
        np.testing.assert_allclose(found, pixels(expected), atol=1e-4)


def test_a_mirrored_image_is_pils_exactly(photographs):
    for image in photographs:
        found = 255 * resample(pixels(image), drawn(flip=True))
        np.testing.assert_allclose(found, pixels(ImageOps.mirror(image)), atol=1e-4)


def test_box_then_border_then_mirror_is_the_order(photographs):
    image = photographs[0]
    stretched = image.crop((20, 5, 70, 65)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    shifted = ImageOps.expand(stretched, 8).crop((8 + 4, 8 - 6, 8 + 4 + SIDE, 8 - 6 + SIDE))
    found = 255 * resample(pixels(image), drawn((5, 20, 60, 50), (-6, 4), True))
    assert np.abs(found - pixels(ImageOps.mirror(shifted))).max() <= 1.05


ENHANCE = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.6, 0.93, 1.4])
def test_each_adjustment_is_pils(photographs, kind, factor):
    factors = [1.0, 1.0, 1.0]
    factors[kind] = factor
    for image in photographs:
        expected = pixels(ENHANCE[kind](image).enhance(factor))
        found = 255 * adjust(pixels(image) / np.float32(255), drawn(factors=factors))
        # PIL cuts the fraction off, and takes the gray (or its mean) as a whole number.
        assert np.abs(found - expected).max() <= 1.5


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_adjustments_come_in_the_drawn_order(photographs, order):
    factors = (1.4, 0.6, 1.35)
    for image in photographs:
        expected = image
        for kind in order:
            expected = ENHANCE[kind](expected).enhance(factors[kind])
        found = 255 * adjust(pixels(image) / np.float32(255), drawn(order=order, factors=factors))
        # At most 1.5 of each, scaled by what follows it: 1.5 (1.4² + 1.4 + 1).
        assert np.abs(found - pixels(expected)).max() <= 6.5
        assert np.abs(found - pixels(expected)).mean() <= 2
        # And the order matters, so that this says something.
        other = 255 * adjust(pixels(image) / np.float32(255), drawn(order=order[::-1], factors=factors))
        assert np.abs(found - other).max() > 8


def torchvisions_boxes(rng, count, scale):
    """`RandomResizedCrop.get_params`, by its documentation, in NumPy."""
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = SIDE * SIDE * rng.uniform(scale, 1)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < width <= SIDE and 0 < height <= SIDE:
                top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
                break
        else:
            top, left, height, width = 0, 0, SIDE, SIDE
        boxes.append((top, left, height, width))
    return np.array(boxes)


@pytest.fixture(scope="module")
def many():
    numbers = jax.random.uniform(jax.random.key(0), (6000, augment._NUMBERS))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda of_image: draw(of_image, STUDY, SIDE)))(numbers))


def test_boxes_are_distributed_as_torchvisions(many):
    theirs = torchvisions_boxes(np.random.default_rng(1), 6000, 0.18)
    ours = many.box
    assert (ours >= 0).all() and (ours[:, :2] + ours[:, 2:] <= SIDE).all() and (ours[:, 2:] > 0).all()
    area = lambda boxes: boxes[:, 2] * boxes[:, 3]
    for of in (area, lambda b: b[:, 2] / b[:, 3], lambda b: b[:, 0], lambda b: b[:, 1], lambda b: b[:, 3]):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > UNLIKELY


def test_shifts_flips_orders_and_factors_are_uniform(many):
    for axis in range(2):
        observed = np.bincount(many.shift[:, axis] + 8, minlength=17)
        assert len(observed) == 17 and stats.chisquare(observed).pvalue > UNLIKELY
    assert stats.binomtest(int(many.flip.sum()), len(many.flip)).pvalue > UNLIKELY
    assert (np.sort(many.order, 1) == [0, 1, 2]).all()
    orders = np.bincount(many.order[:, 0] * 3 + many.order[:, 1], minlength=8)
    assert stats.chisquare(orders[orders > 0]).pvalue > UNLIKELY and (orders > 0).sum() == 6
    for factor in many.factors.T:
        assert stats.kstest(factor, stats.uniform(0.6, 0.8).cdf).pvalue > UNLIKELY


def test_no_augmentation_changes_nothing(photographs):
    images = np.stack([pixels(image) for image in photographs])
    kinds = Augmentation(*(jnp.full(len(images), value) for value in Augmentation()))
    np.testing.assert_allclose(255 * augment_images(jax.random.key(0), images, kinds), images, atol=1e-4)


def test_an_image_is_what_its_own_draw_makes_of_it_also_under_vmap(photographs):
    images = np.stack([pixels(image) for image in photographs])
    kinds = Augmentation(*(jnp.full(len(images), value) for value in STUDY))
    found = augment_images(jax.random.key(5), images, kinds)
    drawing = jax.jit(lambda numbers: draw(numbers, STUDY, SIDE))
    numbers = jax.random.uniform(jax.random.key(5), (len(images), augment._NUMBERS))
    for of_image, image, one in zip(numbers, images, found, strict=True):
        np.testing.assert_allclose(apply(image, drawing(of_image)), one, atol=1e-5)
    assert (found != augment_images(jax.random.key(6), images, kinds)).mean() > 0.9
    assert found.min() >= 0 and found.max() <= 1


# In tasks and batches


def tables(photographs):
    images = np.stack([pixels(image) for image in photographs])
    first = make_table([images[:4], images[4:]], ["a", "b"], (0.5,) * 3, (0.25,) * 3, augmentation=STUDY)
    drawings = [np.repeat(image[None, :, :, :1], 4, 0) for image in images[:2]]
    return first, make_table(drawings, ["c", "d"], (1.0,) * 3, (-1.0,) * 3, rotates=True)


def test_in_a_union_each_data_set_has_its_own_augmentation(photographs):
    first, second = tables(photographs)
    both = union([first, second])
    size = {"ways": 2, "shots": 1, "queries": 1, "tasks": 12}
    plain, augmented = (sample_tasks(jax.random.key(2), both, **size, augment=flag) for flag in (False, True))
    same = np.isclose(plain.query_images, augmented.query_images, atol=1e-5).all((1, 2, 3, 4))
    gray = np.isclose(plain.query_images[..., 0], plain.query_images[..., 2], atol=1e-5).all((1, 2, 3))
    np.testing.assert_array_equal(same, gray)  # drawings stay as they are, photographs do not
    assert 0 < gray.sum() < 12
    np.testing.assert_array_equal(plain.query_labels, augmented.query_labels)


def test_a_gray_table_gives_rgb_tasks(photographs):
    _, drawings = tables(photographs)
    assert drawings.images.shape[-1] == 1
    task = sample_tasks(jax.random.key(0), drawings, ways=2, shots=1, queries=1)
    assert task.support_images.shape == (1, 2, SIDE, SIDE, 3)


def test_batches_are_augmented_where_asked_and_keyed(photographs):
    table, _ = tables(photographs)
    draw_batch = lambda seed, flag: sample_batch(jax.random.key(seed), table, 6, flag)
    (plain, labels), (images, same_labels) = draw_batch(0, False), draw_batch(0, True)
    np.testing.assert_array_equal(labels, same_labels)
    assert (np.abs(plain - images).max((1, 2, 3)) > 0.1).all()
    np.testing.assert_array_equal(images, draw_batch(0, True)[0])
