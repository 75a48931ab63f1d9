"""Tasks and classes embedded over all devices of a job, in float64. `main` runs in processes of their own, a host each.

A network of one convolution compiles in seconds.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.data.table import make_table
from jaxdiv.nets.conv import conv_general_dilated
from jaxdiv.probes.generic import probe_from
from jaxdiv.task2vec import embed, program
from jaxdiv.task2vec.classes import embed_classes

CLASSES = 11


def features(params, images):
    padding = [(1, 1)] * 2
    maps = conv_general_dilated(images, params["kernel"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(maps).mean((1, 2))


def embedded():
    """Tasks of a benchmark and classes of a pool `[11, 6]`, and the blocks that the classes were in."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 3, 6))
    images = [rng.integers(0, 256, (6, 5, 5, 3)).astype(np.uint8) for _ in range(CLASSES)]
    table = make_table(images, [f"class {number}" for number in range(CLASSES)], [0.5] * 3, [0.25] * 3)
    table = table.replace(mean=np.float64(table.mean), std=np.float64(table.std))  # so are the images
    table = jax.device_put(table, jax.local_devices()[0])
    probe, key = probe_from(features, {"kernel": kernel}), jax.random.key(3)
    how = dict(ways=3, shots=1, queries=2, estimator="rademacher", key=key, progress=lambda done: None)
    tasks = embed.embed_benchmark(probe, table, 11, **how)
    blocks, whole = [], program.embedder
    record = lambda run: lambda probe, block: blocks.append(block) or run(probe, block)
    program.embedder = lambda mesh, how: record(whole(mesh, how))
    classes = embed_classes(probe, table, np.arange(CLASSES), 5, key, 0)
    program.embedder = whole
    return tasks, classes, blocks


def main(folder: Path, hosts: int, host: int, port: int) -> None:
    """Writes what this host has to `hostN.npz`, and which of its devices had which examples of the first block."""
    os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={8 // hosts}"
    jax.config.update("jax_enable_x64", True)
    if hosts > 1:
        jax.distributed.initialize(f"localhost:{port}", hosts, host)
    assert (jax.device_count(), jax.local_device_count()) == (8, 8 // hosts)
    tasks, classes, blocks = embedded()
    examples = np.stack([np.asarray(shard.data) for shard in blocks[0][0].addressable_shards])
    np.savez(folder / f"host{host}.npz", tasks=tasks, classes=classes, examples=examples)
    if hosts > 1:
        jax.distributed.shutdown()  # which waits for the others: a process of multiprocessing runs no atexit
