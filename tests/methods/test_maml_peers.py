"""Meta-gradients on real images against those of learn2learn and higher in PyTorch, kept as numbers.

`make_maml_fixtures.py` wrote `maml_fixtures.json`: for each leaf of each gradient its norm, its products with fixed
random arrays, and some of its entries. Weights come from a NumPy seed, images from JAXDIV_TEST_DATA.
"""

import json
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

from bench import layouts
from jaxdiv.data.decode import decoder
from jaxdiv.data.episodes import Task
from jaxdiv.methods import maml
from jaxdiv.nets.conv4 import Conv4
from jaxdiv.nets.resnet12 import ResNet12

FIXTURES = Path(__file__).parent / "maml_fixtures.json"
WAYS, SHOTS, QUERIES, TASKS = 5, 5, 3, 2
ORDERS = ("fo", "ho")
STEPS = (5, 10)
RATE = 0.1
NETS = {  # widths, pixels, channels; Omniglot for conv-4, Mini-ImageNet for ResNet-12
    "conv4": ((6,), 28, 1),
    "resnet12": ((4, 6, 8, 10), 20, 3),
}
PRODUCTS = 4


def arrays(net, archives):
    """The tasks of `net`: support images (about 0..1, float64) and labels, query images and labels."""
    _, pixels, channels = NETS[net]
    decode = decoder(pixels, gray=channels == 1)
    classes = {}
    if net == "conv4":
        with zipfile.ZipFile(archives / "omniglot_png.zip") as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith(".png")):
                classes.setdefault(name.rsplit("/", 1)[0], []).append(name)
            picked = [classes[name][: SHOTS + QUERIES] for name in sorted(classes)[:: len(classes) // (TASKS * WAYS)]]
            images = [[255 - decode(archive.read(name), name) for name in names] for names in picked[: TASKS * WAYS]]
    else:
        with tarfile.open(archives / "miniimagenet_sample.tar") as archive:
            for name in sorted(n for n in archive.getnames() if n.endswith(".jpg")):
                classes.setdefault(name.rsplit("/", 1)[0], []).append(name)
            picked = [classes[name][: SHOTS + QUERIES] for name in sorted(classes)[: TASKS * WAYS]]
            images = [[decode(archive.extractfile(name).read(), name) for name in names] for names in picked]
    images = np.asarray(images, np.float64).reshape(TASKS, WAYS, SHOTS + QUERIES, pixels, pixels, channels) / 255
    flat = lambda part: part.reshape(TASKS, -1, pixels, pixels, channels)
    labels = lambda count: np.tile(np.repeat(np.arange(WAYS), count), (TASKS, 1))
    return flat(images[:, :, :SHOTS]), labels(SHOTS), flat(images[:, :, SHOTS:]), labels(QUERIES)


def weights(net):
    widths, pixels, channels = NETS[net]
    return layouts.draw_weights(net, WAYS, widths, channels, pixels)


def summary(gradient):
    """What the fixtures keep of each leaf (in PyTorch's order and layout): numbers that its norm bounds."""
    draw = np.random.default_rng(1)
    rows = []
    for leaf in gradient:
        flat = np.ravel(leaf)
        products = draw.normal(size=(PRODUCTS, flat.size)) @ flat
        entries = flat[[0, flat.size // 3, -1]]
        rows.append([float(np.linalg.norm(flat)), *products.tolist(), *entries.tolist()])
    return rows


@pytest.fixture(scope="module")
def fixtures():
    return json.loads(FIXTURES.read_text())


@pytest.fixture(scope="module")
def tasks(real):
    return {net: arrays(net, real) for net in NETS}


def compiled(net, first_order, steps, operands, level):
    widths = NETS[net][0]
    module = Conv4(WAYS, *widths) if net == "conv4" else ResNet12(WAYS, widths, dropout=0.0)
    apply = lambda params, images: module.apply({"params": params}, images, mutable=["batch_stats"])[0][0]
    function = partial(maml.meta_gradient, apply, inner_steps=steps, inner_lr=RATE, first_order=first_order)
    return jax.jit(function).lower(*operands).compile({"xla_backend_optimization_level": level})(*operands)


def meta_gradient(net, first_order, steps, dtype, arrays):
    """Loss, and gradient in PyTorch's order and layouts.

    In float64 without XLA's costlier passes: it compiles in a fraction of the time. In float32 as a user compiles it,
    since unoptimised sums of XLA before jax 0.10 are up to 20 times less exact, and ten inner steps magnify that.
    """
    level = 0 if dtype == np.float64 else 3
    side = layouts.last_map(net, NETS[net][1])
    paths = layouts.paths(net)
    with enable_x64(dtype == np.float64):
        params = layouts.tree(paths, [jnp.asarray(layouts.to_ours(w, side), dtype) for w in weights(net)])
        operands = params, Task(*(jnp.asarray(a, dtype if a.ndim == 5 else np.int32) for a in arrays))
        loss, gradient = compiled(net, first_order, steps, operands, level)
    return float(loss), [layouts.from_ours(np.asarray(layouts.at(gradient, path), np.float64), side) for path in paths]


def farthest(rows, expected):
    """The largest difference of any number kept, in units of its leaf's norm."""
    rows, expected = np.array(rows), np.array(expected)
    assert rows.shape == expected.shape
    return float((np.abs(rows - expected) / expected[:, :1]).max())


@pytest.mark.parametrize("net", NETS)
def test_the_images_are_decoded_as_they_were_for_the_fixtures(net, tasks, fixtures):
    support, _, query, _ = tasks[net]
    # Another version of a JPEG library may decode otherwise; then the fixtures must be made again.
    assert [support.sum(), query.sum()] == pytest.approx(fixtures[net]["pixels"], rel=1e-12)


@pytest.mark.parametrize(
    ("net", "order", "steps"),
    # Each compiles for long: that steps count is conv-4's higher order to show, which has the first order in it.
    [("conv4", "ho", 5), ("conv4", "ho", 10), ("conv4", "fo", 10), ("resnet12", "ho", 10)],
)
def test_meta_gradient_on_real_images_equals_learn2learns_in_float64(net, order, steps, tasks, fixtures):
    expected = fixtures[net][f"{order} {steps}"]
    loss, gradient = meta_gradient(net, order == "fo", steps, np.float64, tasks[net])
    assert loss == pytest.approx(expected["loss"], rel=1e-9)
    assert farthest(summary(gradient), expected["gradient"]) < 1e-9


@pytest.mark.parametrize("order", ORDERS)
def test_conv4s_meta_gradient_in_float32_is_near_learn2learns_in_float64(order, tasks, fixtures):
    steps = max(STEPS)
    expected = fixtures["conv4"][f"{order} {steps}"]
    loss, gradient = meta_gradient("conv4", order == "fo", steps, np.float32, tasks["conv4"])
    assert loss == pytest.approx(expected["loss"], rel=1e-4)
    assert farthest(summary(gradient), expected["gradient"]) < 1e-3


@pytest.mark.parametrize("net", NETS)
def test_the_fixtures_tell_orders_and_steps_apart(net, fixtures):
    kinds = [fixtures[net][f"{order} {steps}"]["gradient"] for order in ORDERS for steps in STEPS]
    for n, one in enumerate(kinds):
        assert all(farthest(one, other) > 0.01 for other in kinds[n + 1 :])
