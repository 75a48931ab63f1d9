"""How the work of one device falls with the number of devices: counted in the programs that XLA compiles for it.

    python bench/devices.py --figure=bench/devices.png

A step of training (MAML, first order), the test of as many tasks and their diversity, each for 1, 2, 4 and 8 virtual
devices of a CPU. Counted are XLA's own floating-point operations of one device's program, which computes its tasks all
at once, since XLA counts a loop's body once: the inner loop's one step stands for all. This says how work is shared,
not how fast it is: virtual devices share the same cores.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np
from absl import app, flags
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiv import MAML, load_probe, make_network
from jaxdiv.data.episodes import Task
from jaxdiv.methods import evaluate, step
from jaxdiv.task2vec import program

DEVICES, TASKS = (1, 2, 4, 8), 16
FIGURE = flags.DEFINE_string("figure", None, "Where to draw it, a .png.")

WAYS, SHOTS, QUERIES, PIXELS = 5, 2, 2, 28
METHOD, SETTINGS = MAML(make_network("conv4", WAYS, PIXELS, 8)), step.TrainSettings(1)
# LLVM does not optimise what it makes of the programs, which saves minutes and changes none of them.
HASTY = {"xla_backend_optimization_level": 0}


def main(argv: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES[-1])
    stages = {"training": training, "evaluation": evaluation, "diversity": diversity}
    found: dict[int, dict[str, float]] = {}
    print(f"| devices | {' | '.join(stages)} |\n|--:|{'--:|' * len(stages)}")
    for devices in DEVICES:
        mesh = jax.make_mesh((devices,), ("tasks",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        found[devices] = {name: work_of(lowered(mesh)) for name, lowered in stages.items()}
        shares = {name: work / found[DEVICES[0]][name] for name, work in found[devices].items()}
        cells = [f"{work / 1e6:,.1f} M ({shares[name]:.3f})" for name, work in found[devices].items()]
        print(f"| {devices} | {' | '.join(cells)} |", flush=True)
    if FIGURE.value:
        draw(found)


def training(mesh: Mesh) -> jax.stages.Lowered:
    method = replace(METHOD, mesh=mesh, tasks_at_once=TASKS // mesh.size)
    state, key = whole(mesh, (step.abstract_state(method, SETTINGS), a_key()))
    return step.lower(method, SETTINGS, mesh, state, tasks(mesh), key)


def evaluation(mesh: Mesh) -> jax.stages.Lowered:
    method = METHOD.tested
    params, model_state = whole(mesh, jax.eval_shape(method.init, jax.random.key(0)))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), TASKS))
    given = params, model_state, tasks(mesh), over(mesh, keys)
    return evaluate.lower(method, mesh, given, TASKS // mesh.size)


def diversity(mesh: Mesh) -> jax.stages.Lowered:
    examples = WAYS * (SHOTS + QUERIES)
    images = jax.ShapeDtypeStruct((examples, PIXELS, PIXELS, 3), np.float32)
    task = images, jax.ShapeDtypeStruct((examples,), np.int32), jax.ShapeDtypeStruct((2,), np.uint32)
    how = program.How(WAYS, "exact", "converged", examples, jax.random.key_impl(jax.random.key(0)))
    return program.embedder(mesh, how).lower(*program.abstract(mesh, load_probe("resnet10_narrow"), task, TASKS))


def work_of(lowered: jax.stages.Lowered) -> float:
    """The floating-point operations of one device."""
    counted = lowered.compile(HASTY).cost_analysis()
    return (counted[0] if isinstance(counted, list) else counted)["flops"]


def tasks(mesh: Mesh) -> PyTree:
    images = lambda each: jax.ShapeDtypeStruct((TASKS, WAYS * each, PIXELS, PIXELS, 3), np.float32)
    labels = lambda each: jax.ShapeDtypeStruct((TASKS, WAYS * each), np.int32)
    return over(mesh, Task(images(SHOTS), labels(SHOTS), images(QUERIES), labels(QUERIES)))


def a_key() -> PyTree:
    return jax.eval_shape(lambda: jax.random.key(0))


def whole(mesh: Mesh, tree: PyTree) -> PyTree:
    return _on(NamedSharding(mesh, PartitionSpec()), tree)


def over(mesh: Mesh, tree: PyTree) -> PyTree:
    return _on(NamedSharding(mesh, PartitionSpec("tasks")), tree)


def _on(sharding: NamedSharding, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def draw(found: Mapping[int, Mapping[str, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes, one = figure.subplots(), found[DEVICES[0]]
    axes.plot(DEVICES, [1 / devices for devices in DEVICES], ":", color="0.5", label="1 / devices")
    # Side by side, since they lie on one another.
    for (stage, alone), marker, aside in zip(one.items(), "osD", (0.94, 1.0, 1.06), strict=True):
        shares = [found[devices][stage] / alone for devices in DEVICES]
        axes.plot(np.multiply(DEVICES, aside), shares, marker, label=stage, ms=5)
    axes.set(xlabel="devices", ylabel="work of a device, share of one's", xscale="log", yscale="log")
    axes.set_xticks(DEVICES, [*map(str, DEVICES)])
    axes.set_yticks([1 / devices for devices in DEVICES], [f"{1 / devices:.3g}" for devices in DEVICES])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(FIGURE.value, dpi=150)


if __name__ == "__main__":
    app.run(main)
