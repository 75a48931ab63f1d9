"""The convolutions of many tasks, each with kernels of its own, against `jax.lax`'s under vmap."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import mlir
from precision import enable_x64

from jaxdiv.data.episodes import Task
from jaxdiv.methods.maml import meta_gradient
from jaxdiv.nets import conv, conv_cpu, conv_forms
from jaxdiv.nets.conv import conv_general_dilated
from jaxdiv.nets.network import make_network

LAYOUT = ("NHWC", "HWIO", "NHWC")
ours = partial(conv_general_dilated, dimension_numbers=LAYOUT)
theirs = partial(lax.conv_general_dilated, dimension_numbers=LAYOUT)


@pytest.fixture
def cpu_as_a_gpu():
    """On the CPU the primitives compute as they do on a GPU."""
    maps = {name: getattr(conv, f"_{name}") for name in ("conv", "input_grad", "kernel_grad")}
    on_gpu = {name: (getattr(conv_forms, name), getattr(conv_forms, f"{name}_gpu")) for name in maps}
    for name, primitive in maps.items():
        mlir.register_lowering(primitive, conv._lowered(*on_gpu[name]), platform="cpu")
    yield
    for name, primitive in maps.items():
        alone = getattr(conv_cpu, name)
        mlir.register_lowering(primitive, conv._lowered(alone, conv._vmapped(on_gpu[name][0])), platform="cpu")


@pytest.mark.parametrize(
    ("busy", "turn_bytes"), [pytest.param(2**60, 2**15, id="products, two at a time"), pytest.param(0, 0, id="alone")]
)
def test_on_a_gpu_many_tasks_are_laxs_vmapped_to_second_order(busy, turn_bytes, monkeypatch, cpu_as_a_gpu):
    monkeypatch.setattr(conv_forms, "_BUSY", busy)
    monkeypatch.setattr(conv_forms, "_TURN_BYTES", turn_bytes)
    layers = [((1, 1), ((1, 1), (0, 1))), ((2, 2), ((1, 1), (0, 2))), ((1, 1), ((1, 1), (1, 1)))]
    shapes = [(3, 2, 2, 4), (3, 3, 4, 5), (1, 1, 5, 2)]

    def second(conv, kernels, x):
        def loss(kernels, x):
            for kernel, (strides, padding) in zip(kernels, layers, strict=True):
                x = jnp.sin(conv(x, kernel, strides, padding))
            return jnp.sum(x)

        first = jax.grad(loss, (0, 1))
        return first(kernels, x), jax.grad(lambda *a: sum(jnp.sum(jnp.cos(g)) for g in jax.tree.leaves(first(*a))))(
            kernels, x
        )

    with enable_x64(True):
        rng = np.random.default_rng(0)
        kernels = [jnp.asarray(rng.normal(size=(4, *shape)) / 3) for shape in shapes]
        x = jnp.asarray(rng.normal(size=(4, 2, 9, 7, 2)))
        got, wanted = (jax.jit(jax.vmap(partial(second, conv)))(kernels, x) for conv in (ours, theirs))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * float(jnp.abs(b).max()))


def test_vmap_inside_vmap_over_any_of_the_arguments_is_laxs():
    ways = [(0, None), (None, 0), (0, 0)]
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)

    def maps(conv):
        forward = lambda x, w: conv(x, w, (1, 1), "SAME")
        backward = lambda x, w, dy: jax.vjp(forward, x, w)[1](dy)
        return (
            forward,
            lambda dy, w: backward(jnp.zeros((2, 5, 4, 3)), w, dy)[0],
            lambda x, dy: backward(x, jnp.zeros((3, 3, 3, 2)), dy)[1],
        )

    shapes = [((2, 5, 4, 3), (3, 3, 3, 2)), ((2, 5, 4, 2), (3, 3, 3, 2)), ((2, 5, 4, 3), (2, 5, 4, 2))]

    def every(conv, given):
        found = []
        for f, sides in zip(maps(conv), shapes, strict=True):
            for outer in ways:
                for inner in ways:
                    lead = [
                        ((3,) if o == 0 else ()) + ((2,) if i == 0 else ()) for o, i in zip(outer, inner, strict=True)
                    ]
                    arguments = [given[part, *side] for part, side in zip(lead, sides, strict=True)]
                    found.append(jax.vmap(jax.vmap(f, inner), outer)(*arguments))
        return found

    leads, every_shape = [(), (2,), (3,), (3, 2)], {side for sides in shapes for side in sides}
    given = {(lead, *side): draw(*lead, *side) for lead in leads for side in every_shape}
    # As values: XLA before jax 0.8.1 folds convolutions of constants wrongly.
    for a, b in zip(*(jax.jit(partial(every, side))(given) for side in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def convolutions(text):
    """(window rows, group counts) of every convolution in a StableHLO module."""
    for line in text.splitlines():
        if "stablehlo.convolution" in line:
            groups = [int(found) for found in re.findall(r"(?:feature|batch)_group_count = (\d+)", line)]
            layout = re.search(r"x\[([^]]*)\]->", line)[1].split(", ")
            kernel = re.search(r", tensor<([\dx]+)x\w+>\) ->", line)[1].split("x")
            yield int(kernel[layout.index("0")]), max(groups)


def test_on_a_gpu_no_task_is_a_group_of_a_convolution():
    pixels, channels = 84, 3  # ResNet-12, whose first convolution is small and whose others are large
    tasks = 4
    floats = lambda *shape: jax.ShapeDtypeStruct((tasks, *shape), jnp.float32)
    whole = lambda *shape: jax.ShapeDtypeStruct((tasks, *shape), jnp.int32)
    image = (pixels, pixels, channels)
    task = Task(floats(25, *image), whole(25), floats(75, *image), whole(75))
    network = make_network("resnet12", 5, pixels, channels=channels)
    params = jax.eval_shape(network.init, jax.random.key(0))[0]
    apply = lambda params, images: network.apply_batch_stats(params, images).logits
    gradient = lambda params, tasks: meta_gradient(apply, params, tasks, first_order=True, vmap=True)
    traced = jax.jit(gradient).trace(params, task)
    grouped = {
        platform: [
            window
            for window, groups in convolutions(traced.lower(lowering_platforms=(platform,)).as_text())
            if groups > 1
        ]
        for platform in ("cuda", "tpu")
    }
    assert grouped["cuda"] == []
    assert max(grouped["tpu"]) > 7  # the witness that they are seen: a TPU has fast ones
