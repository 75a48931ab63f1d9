"""Blocks of tasks: what is read of them, where they are, and that neither changes what comes out."""

import multiprocessing
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedded_over_devices import embedded, features, main
from precision import enable_x64

from jaxdiv.data.table import make_table
from jaxdiv.probes.generic import probe_from
from jaxdiv.task2vec import embed, program
from jaxdiv.task2vec.coefficient import diversity

SIZE = dict(ways=3, shots=2, queries=3)


@pytest.fixture(scope="module")
def probe():
    """One convolution: it compiles in a moment."""
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 6))
    return probe_from(features, {"kernel": kernel.astype(np.float32)})


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


@pytest.mark.parametrize(("at_once", "blocks"), [(None, 3), (1, 3), (3, 1), (50, 1)])
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


@pytest.mark.parametrize(("estimator", "head"), [("exact", "converged"), ("reference", "adam")])
def test_neither_tasks_at_once_nor_the_chunk_changes_more_than_the_rounding(probe, table, monkeypatch, estimator, head):
    monkeypatch.setattr("jaxdiv.task2vec.aws._BATCHES", 3)
    how = dict(estimator=estimator, head=head, key=jax.random.key(5), progress=lambda done: None)
    alone = embed.embed_benchmark(probe, table, 3, **SIZE, **how)
    found = embed.embed_benchmark(probe, table, 3, **SIZE, **how, tasks_at_once=3, chunk=4)
    np.testing.assert_allclose(found, alone, rtol=2e-5, atol=1e-6 * alone.max())


def test_a_table_on_the_host_gives_the_embeddings_of_one_on_the_device(probe, table):
    how = dict(key=jax.random.key(2), progress=lambda done: None, tasks_at_once=3)
    on_device = embed.embed_benchmark(probe, jax.device_put(table), 3, **SIZE, **how)
    on_host = embed.embed_benchmark(probe, table.replace(on_host=True), 3, **SIZE, **how)
    np.testing.assert_allclose(on_host, on_device, rtol=2e-5)


def test_a_device_without_the_memory_gets_half_the_tasks_and_none_is_embedded_twice(probe, table, monkeypatch):
    ran, whole = [], program.embedder

    def small(mesh, how):
        def run(probe, block):
            tasks = len(block[1])
            if tasks > 1:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            ran.append(tasks)
            return whole(mesh, how)(probe, block)

        return run

    how = dict(key=jax.random.key(2), progress=lambda done: None)
    expected = embed.embed_benchmark(probe, table, 3, **SIZE, **how)
    monkeypatch.setattr(program, "embedder", small)
    found = embed.embed_benchmark(probe, table, 3, **SIZE, **how, tasks_at_once=3)
    np.testing.assert_array_equal(found, expected)
    assert ran == [1, 1, 1]
    monkeypatch.setattr(program, "embedder", lambda mesh, how: lambda *_: small(mesh, how)(None, (0, [0] * 3)))
    with pytest.raises(jax.errors.JaxRuntimeError):  # nothing is small enough
        embed.embed_benchmark(probe, table, 3, **SIZE, **how, tasks_at_once=3)


@pytest.fixture(scope="module")
def of_one_device():
    with enable_x64(True):
        return embedded()


@pytest.mark.parametrize("hosts", [1, 2])
def test_eight_devices_of_one_host_or_two_give_the_embeddings_and_the_coefficient_of_one(
    of_one_device, tmp_path, hosts
):
    """Of a benchmark's tasks and of a pool's classes, of which different devices have different ones."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    started = [spawn.Process(target=main, args=(tmp_path, hosts, host, port)) for host in range(hosts)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * hosts
    found = [np.load(tmp_path / f"host{host}.npz") for host in range(hosts)]
    for mine in found:
        for name, alone in zip(("tasks", "classes"), of_one_device[:2], strict=True):
            assert alone.shape == (11, 6) and mine[name].dtype == alone.dtype == np.float64
            np.testing.assert_allclose(mine[name], alone, rtol=1e-9, err_msg=name)
            assert diversity(mine[name]).value == pytest.approx(diversity(alone).value, rel=1e-9)
    examples = np.concatenate([mine["examples"] for mine in found]).reshape(8, -1)
    assert len(np.unique(examples, axis=0)) == 8
