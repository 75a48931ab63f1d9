"""How many examples and tasks a device works on at once: by what they need and what it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedded_over_devices import features
from random_probe import CASES, setting

from jaxdiv.nets.logistic import Head
from jaxdiv.probes.generic import probe_from
from jaxdiv.probes.resnet import NETS
from jaxdiv.probes.resnet_probe import ResNetProbe
from jaxdiv.task2vec import fisher, memory

GB = 10**9


def test_a_resnet50_takes_single_images_on_a_cpu_and_many_on_an_accelerator():
    """At 224 px; before, it took single images everywhere."""
    net = NETS["resnet50"]
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    probe = ResNetProbe("resnet50", net, {name: variables[name] for name in ("params", "batch_stats")})
    task = jax.ShapeDtypeStruct((100, 224, 224, 3), jnp.float32)
    assert memory.cpu_chunk(probe, task, columns=4) == 1
    need = memory.need(probe, task, 5, "exact")
    on_h100, on_v5e = (memory.most(need, 50, free * GB) for free in (64, 12))
    assert on_h100.chunk == 50 > on_v5e.chunk >= 10


@pytest.mark.parametrize("free", [2, 30, 99, 130, 299, 300, 1000, 10**6])
@pytest.mark.parametrize("each", [0, 1, 3])
def test_what_is_chosen_fits_and_more_would_not(free, each):
    need = memory.Need(examples=100, each=each, fixed=10)
    chunk, tasks = memory.most(need, 1000, free)
    assert tasks * need.of(chunk) <= free or (chunk, tasks) == (1, 1) or (each == 0 and tasks == 1)
    if chunk < 100:
        turns = -(-100 // chunk)
        assert tasks == 1 and need.of(-(-100 // (turns - 1))) > free  # in one turn less
    elif tasks < 40:  # 4000 examples are enough for any device
        assert -(-1000 // tasks) == -(-1000 // max(1, free // need.of(100)))


def test_what_is_asked_for_is_taken_and_turns_are_of_one_size():
    need = memory.Need(examples=100, each=1, fixed=10)
    assert memory.most(need, 12, 10**6, chunk=7, tasks_at_once=5) == (7, 4)  # three turns
    assert memory.most(need, 12, 10**6, tasks_at_once=12) == (100, 12)
    assert memory.most(need, 3, 10**6) == (100, 3)


def test_the_reference_takes_its_own_batches_whatever_the_chunk():
    probe, batch, _ = setting(*CASES["basic blocks"])
    need = memory.need(probe, batch, 3, "reference")
    assert need.of(1) == need.of(5) > memory.need(probe, batch, 3, "rademacher").of(4)


def test_a_cpu_takes_one_task_after_the_other_unless_it_is_told():
    probe, batch, _ = setting(*CASES["basic blocks"])
    free = memory.free_bytes(jax.devices()[0], batch)
    assert memory.choose(probe, batch, 3, "exact", 12, free) == (None, 1)
    assert memory.choose(probe, batch, 3, "exact", 12, free, chunk=2, tasks_at_once=5) == (2, 4)


def test_too_much_becomes_half_the_tasks_and_then_half_the_examples():
    found, at_once = [], memory.AtOnce(100, 3)
    while at_once := memory.smaller(at_once, 100):
        found.append(at_once)
    assert found[:3] == [(100, 2), (100, 1), (50, 1)] and found[-1] == (1, 1)
    assert memory.smaller(memory.AtOnce(None, 1), 100) == (50, 1)


def test_a_draw_does_not_depend_on_the_chunk():
    """Or an accelerator, whose chunks are others, would draw others under one key than a CPU."""
    rng = np.random.default_rng(0)
    probe = probe_from(features, {"kernel": rng.normal(size=(3, 3, 3, 6)).astype(np.float32)})
    batch, head = rng.normal(size=(7, 5, 5, 3)).astype(np.float32), Head(jnp.eye(6, 3), jnp.zeros(3))
    by = lambda chunk: np.asarray(fisher.fisher(probe, batch, head, "rademacher", jax.random.key(4), chunk))
    np.testing.assert_allclose(by(2), by(None), rtol=1e-4, atol=1e-6 * by(None).max())
