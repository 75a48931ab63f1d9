"""A training run for tests that kill it or give it other devices: `main` runs in a process of its own.

Higher-order MAML of one convolution and a linear head, in float64, on generated tasks, eight to a meta-batch.
"""

import json
import os
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.data.episodes import Task
from jaxdiv.methods.checkpointing import load_params
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.parallel import make_mesh, replicate, shard
from jaxdiv.methods.train import TrainSettings, train
from jaxdiv.nets.conv import conv_general_dilated
from jaxdiv.nets.network import Network

BATCH, SIZE = 8, 6


class Net(nn.Module):
    @nn.compact
    def __call__(self, images, dropblock_scale=0.0):
        conv = nn.Conv(4, (3, 3), use_bias=False, param_dtype=float, conv_general_dilated=conv_general_dilated)
        features = jnp.tanh(conv(images)).reshape(len(images), -1)
        return nn.Dense(3, use_bias=False, param_dtype=float, name="head")(features), features


NET = Network(Net(), (SIZE, SIZE, 3))


@jax.jit
def sample(key):
    """Tasks whose classes differ in their mean image."""
    for_means, for_support, for_queries = jax.random.split(key, 3)
    means = jax.random.normal(for_means, (BATCH, 3, SIZE, SIZE, 3))

    def part(key, count):
        labels = jnp.tile(jnp.arange(count) % 3, (BATCH, 1))
        return means[:, labels[0]] + jax.random.normal(key, (BATCH, count, SIZE, SIZE, 3)), labels

    return Task(*part(for_support, 6), *part(for_queries, 9))


def projections(tree):
    """A number for each leaf that any change of the leaf changes."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]
    return [float(leaf.ravel() @ np.random.default_rng(n).normal(size=leaf.size)) for n, leaf in enumerate(leaves)]


def main(cache: str, folder: Path, steps: int, devices: int, pause: float, hosts: int, host: int, port: int) -> None:
    """Train in `folder` up to `steps`, a pause in each; then losses and projections are in `found.json` there.

    `began` is there once this process has made a step, its compilation over.
    """
    os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if hosts > 1:
        jax.distributed.initialize(f"localhost:{port}", hosts, host)
    mesh = make_mesh(BATCH)
    method = MAML(NET, 3, 0.05, first_order=False, mesh=mesh)
    params = replicate(jax.jit(method.init)(jax.random.key(1))[0], mesh)
    tasks = shard(sample(jax.random.key(2)), mesh)
    gradient = jax.jit(method.gradient)(params, {}, tasks, jax.random.key(3))[0]

    drawn = 0

    def slowly(key):
        nonlocal drawn
        drawn += 1
        if drawn == 2:
            (folder / "began").touch()
        time.sleep(pause)
        return sample(key)

    train(method, slowly, jax.random.key(7), TrainSettings(steps, 0.003, checkpoint_every=10), folder, mesh=mesh)
    if host == 0:
        losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        final = projections(load_params(folder, method)[0])
        found = {"gradient": projections(gradient), "losses": losses, "final": final}
        (folder / "found.json").write_text(json.dumps({"devices": jax.device_count(), **found}))
    if hosts > 1:
        jax.distributed.shutdown()  # which waits for the others: a process of multiprocessing runs no atexit
