"""Blocks of tasks: what is read of them, where they are, and that neither changes what comes out."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_probe import setting

from jaxdiv.data.table import make_table
from jaxdiv.probes.resnet import ResNet
from jaxdiv.task2vec import embed, program

SIZE = dict(ways=3, shots=2, queries=3)


@pytest.fixture(scope="module")
def probe():
    return setting(ResNet((1,), (5,), small_stem=True), (8, 8), 6)[0]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (9, 8, 8, 3)).astype(np.uint8) for _ in range(7)]
    return make_table(images, list("abcdefg"), [0.5] * 3, [0.25] * 3)


@pytest.fixture
def reads(monkeypatch):
    """Every wait of the host for numbers of a device: a call of `jax.device_get`, or an array used as a number."""
    found, inside = [], []
    array = type(jnp.zeros(1))

    def counting(owner, name):
        whole = getattr(owner, name)

        def read(*given, **named):
            found.extend([] if inside else [name])
            inside.append(name)
            try:
                return whole(*given, **named)
            finally:
                inside.pop()

        monkeypatch.setattr(owner, name, read)

    counting(jax, "device_get")
    for name in ("__array__", "__bool__", "__int__", "__float__", "__index__", "item", "tolist"):
        counting(array, name)
    return found


@pytest.mark.parametrize(("at_once", "blocks"), [(None, 3), (1, 3), (2, 2), (3, 1), (50, 1)])
def test_a_block_of_tasks_is_one_dispatch_and_one_read(probe, table, reads, monkeypatch, at_once, blocks):
    """Drawing, features, head, Fisher and every check: before, each task took six reads of its own."""
    dispatched, whole = [], program.embedder
    counting = lambda run: lambda *given: dispatched.append(given) or run(*given)
    monkeypatch.setattr(program, "embedder", lambda mesh, how: counting(whole(mesh, how)))
    placed = jax.device_put(table)
    done: list[int] = []
    reads.clear()
    found = embed.embed_benchmark(probe, placed, 3, **SIZE, tasks_at_once=at_once, progress=done.append)
    assert len(reads) == len(dispatched) == len(done) == blocks
    assert done[-1] == len(found) == 3 and done == sorted(done)


@pytest.mark.parametrize(("estimator", "head"), [("exact", "converged"), ("mc", "converged"), ("reference", "adam")])
def test_neither_tasks_at_once_nor_the_chunk_changes_more_than_the_rounding(probe, table, monkeypatch, estimator, head):
    monkeypatch.setattr("jaxdiv.task2vec.aws._BATCHES", 3)
    how = dict(estimator=estimator, head=head, key=jax.random.key(5), progress=lambda done: None)
    alone = embed.embed_benchmark(probe, table, 3, **SIZE, **how)
    found = embed.embed_benchmark(probe, table, 3, **SIZE, **how, tasks_at_once=2, chunk=4)
    np.testing.assert_allclose(found, alone, rtol=2e-5, atol=1e-6 * alone.max())


def test_a_table_on_the_host_gives_the_embeddings_of_one_on_the_device(probe, table):
    how = dict(key=jax.random.key(2), progress=lambda done: None, tasks_at_once=2)
    on_device = embed.embed_benchmark(probe, jax.device_put(table), 3, **SIZE, **how)
    on_host = embed.embed_benchmark(probe, table.replace(on_host=True), 3, **SIZE, **how)
    np.testing.assert_allclose(on_host, on_device, rtol=2e-5)


def test_a_device_without_the_memory_gets_half_the_tasks_and_none_is_embedded_twice(probe, table, monkeypatch):
    ran, whole = [], program.embedder

    def small(mesh, how):
        def run(probe, block):
            tasks = len(block[1])
            if tasks > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            ran.append(tasks)
            return whole(mesh, how)(probe, block)

        return run

    how = dict(key=jax.random.key(2), progress=lambda done: None)
    expected = embed.embed_benchmark(probe, table, 5, **SIZE, **how, tasks_at_once=2)
    monkeypatch.setattr(program, "embedder", small)
    found = embed.embed_benchmark(probe, table, 5, **SIZE, **how, tasks_at_once=5)
    np.testing.assert_array_equal(found, expected)
    assert ran == [2, 2, 2]
    monkeypatch.setattr(program, "embedder", lambda mesh, how: lambda *_: small(mesh, how)(None, (0, [0] * 3)))
    with pytest.raises(jax.errors.JaxRuntimeError):  # nothing is small enough
        embed.embed_benchmark(probe, table, 5, **SIZE, **how, tasks_at_once=5)


# Of processes with 8 devices in all: their embeddings, and those of the pool's classes, against one device's. In
# float64. Prints how many devices had different tasks.
SPREAD = """
import sys
import jax, numpy as np
hosts, host, port = map(int, sys.argv[1:])
jax.config.update("jax_enable_x64", True)
if hosts > 1:
    jax.distributed.initialize(f"localhost:{port}", hosts, host)
from jax.sharding import Mesh
from random_probe import setting
from jaxdiv.data.table import make_table
from jaxdiv.probes.resnet import ResNet
from jaxdiv.study import subsets
from jaxdiv.task2vec import embed, program
from jaxdiv.task2vec.coefficient import diversity
assert jax.device_count() == 8
probe = setting(ResNet((1,), (5,), small_stem=True), (8, 8), 6)[0]
probe = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), probe)
rng = np.random.default_rng(0)
images = [rng.integers(0, 256, (9, 8, 8, 3)).astype(np.uint8) for _ in range(11)]
table = make_table(images, list("abcdefghijk"), [0.5] * 3, [0.25] * 3)
table = table.replace(mean=np.float64(table.mean), std=np.float64(table.std))  # so are the images
table = jax.device_put(table, jax.local_devices()[0])
blocks, whole = [], program.embedder
record = lambda run: lambda probe, block: blocks.append(block) or run(probe, block)
program.embedder = lambda mesh, how: record(whole(mesh, how))

def both(of):
    found, alone = of(), None
    one = Mesh(np.array(jax.local_devices()[:1]), ("tasks",))
    with_all, program.mesh_of = program.mesh_of, lambda tasks: one
    alone = of()
    program.mesh_of = with_all
    assert found.dtype == np.float64 and found.shape == alone.shape == (11, 30)
    np.testing.assert_allclose(found, alone, rtol=1e-9, atol=1e-12 * alone.max())
    assert abs(diversity(found).value - diversity(alone).value) < 1e-9
    return found

key = jax.random.key(3)
how = dict(ways=3, shots=2, queries=3, estimator="rademacher", key=key, progress=lambda done: None)
both(lambda: embed.embed_benchmark(probe, table, 11, **how))
blocks.clear()
both(lambda: subsets.embed_classes(probe, table, np.arange(11), 5, key, 0))
first = blocks[0][0]
assert len(first.sharding.device_set) == 8
mine = {shard.device: np.asarray(shard.data).tobytes() for shard in first.addressable_shards}
print("different", len(mine), len(set(mine.values())))
"""


def spread(hosts):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={8 // hosts}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    line = lambda host: [sys.executable, "-c", SPREAD, *map(str, (hosts, host, port))]
    given = dict(env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = [subprocess.Popen(line(host), **given) for host in range(hosts)]
    return [process.communicate(timeout=300) for process in started]


@pytest.mark.parametrize("hosts", [1, 2])
def test_eight_devices_of_one_host_or_two_give_the_embeddings_and_the_coefficient_of_one_device(hosts):
    """And `select` has different classes on different devices."""
    for said, errors in spread(hosts):
        *_, last = said.splitlines() or [""]  # Gloo speaks before
        assert last == f"different {8 // hosts} {8 // hosts}", errors
