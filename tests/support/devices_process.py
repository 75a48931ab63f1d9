"""Training and evaluation in a process of its own, on one device and on all of them: `main`.

A network of one layer, in float64, on tasks from a table of made-up images: what devices share must not show. One with
a convolution is in `training_process`.
"""

import json
import os
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.data.table import make_table, place
from jaxdiv.methods import sampling
from jaxdiv.methods.checkpointing import load_params
from jaxdiv.methods.evaluate import evaluate
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.parallel import all_devices, shard
from jaxdiv.methods.pretrain import PreTraining
from jaxdiv.methods.sampling import TestTasks, spread_table
from jaxdiv.methods.step import TrainSettings
from jaxdiv.methods.train import train
from jaxdiv.nets.network import Network
from jaxdiv.nets.norm import BatchNorm

CLASSES, SIDE, WAYS, SIZE = 6, 6, 3, 16
TASK = dict(ways=WAYS, shots=2, queries=2)


class Net(nn.Module):
    ways: int = WAYS

    @nn.compact
    def __call__(self, images, dropblock_scale=0.0):
        of_pixels = nn.Dense(4, use_bias=False, param_dtype=float)
        features = jnp.tanh(BatchNorm()(of_pixels(images.astype(float)))).reshape(len(images), -1)
        return nn.Dense(self.ways, param_dtype=float, name="head")(features) if self.ways else features, features


def table():
    rng = np.random.default_rng(0)
    by_class = [
        np.clip(128 + 60 * rng.normal(size=(1, SIDE, SIDE, 3)) + 20 * rng.normal(size=(9, SIDE, SIDE, 3)), 0, 255)
        for _ in range(CLASSES)
    ]
    names = [f"class {number}" for number in range(CLASSES)]
    pixels = [images.astype(np.uint8) for images in by_class]
    return place(make_table(pixels, names, (0.5,) * 3, (0.2,) * 3))


def methods(mesh):
    net = Network(Net(), (SIDE, SIDE, 3))
    return (
        MAML(net, 2, 0.05, first_order=False, mesh=mesh, batch_norm="running"),
        PreTraining(net.with_ways(CLASSES), WAYS, mesh=mesh),
    )


def curves(folder, mesh, hosts=1):
    """Each method's losses in training, and its values on test tasks; of several hosts the first method's alone, and
    also on a table that stays on the host."""
    found, images = {}, table()
    near = spread_table(images, mesh)
    for method in methods(mesh)[: 2 if hosts == 1 else 1]:
        sample = lambda key, method=method: method.sample(key, near, SIZE, **TASK, augment=False)
        train(method, sample, jax.random.key(7), TrainSettings(2, 0.01), folder / method.name, mesh=mesh)
        lines = (folder / method.name / "metrics.jsonl").read_text().splitlines()
        params, model_state = load_params(folder / method.name, method)
        tests = {}
        where_from = {"near": images} | ({"on the host": place(images, limit=0)} if hosts > 1 else {})
        for where, at in where_from.items():
            unseen, key = TestTasks(at, **TASK), jax.random.key(1)
            values = evaluate(method, params, model_state, unseen, key, 13, chunk=5, mesh=mesh)
            tests[where] = [value.tolist() for value in values]
        found[method.name] = {"losses": [json.loads(line)["loss"] for line in lines], "tests": tests}
    return found


def draws(mesh):
    """Of the two ways to draw a batch on the devices: what each holds of it, and how often they talk to one another."""
    near, key = spread_table(table(), mesh), jax.random.key(3)
    of_tasks = sampling._tasks_of.lower(jax.random.split(key, SIZE), near, mesh, WAYS, 2, 2, False)
    ways = {
        "tasks": (sampling.draw_tasks(key, near, WAYS, 2, 2, SIZE, False, mesh), of_tasks),
        "images": (
            sampling.draw_batch(key, near, SIZE, False, mesh),
            sampling._batch.lower(key, near, mesh, SIZE, False),
        ),
    }
    found = {}
    for name, (batch, lowered) in ways.items():
        leaf = jax.tree.leaves(batch)[0]
        program = lowered.compile().as_text()
        talks = re.findall(r"(all-gather|all-reduce|all-to-all|collective-permute)[\w.-]*\(", program)
        stays = shard(batch, mesh) is batch
        found[name] = {"share": leaf.addressable_shards[0].data.shape[0], "talks": len(talks), "stays": stays}
    return found


def main(cache: str, folder: Path, devices: int, hosts: int, host: int, port: int) -> None:
    """Write what was found on all devices, and by a host alone also on one, to `found.json` in `folder`."""
    os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    if hosts > 1:
        jax.distributed.initialize(f"localhost:{port}", hosts, host)
    mesh = all_devices()
    found = {"devices": jax.device_count(), "all": curves(folder / "all", mesh, hosts)}
    if hosts == 1:
        found |= {"one": curves(folder / "one", None), "draws": draws(mesh)}
    if host == 0:
        (folder / "found.json").write_text(json.dumps(found))
    if hosts > 1:
        jax.distributed.shutdown()  # which waits for the others: a process of multiprocessing runs no atexit
