"""How the work of one device falls with the number of devices: counted in the programs that XLA compiles for it.

    python bench/devices.py --figure=bench/devices.png

One step of training (MAML, first order), an evaluation and the diversity of a benchmark run on 1, 2, 4 and 8 virtual
devices of a CPU, each number in a process of its own that keeps every program that it compiles. Counted are the
multiplications and additions of all products and convolutions, a loop's body as often as it runs. This says how work
is shared, not how fast it is: virtual devices share the same cores.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from absl import app, flags

FIGURE = flags.DEFINE_string("figure", None, "Where to draw it, a .png.")
DEVICES = flags.DEFINE_list("devices", "1,2,4,8", "How many devices.")
COUNT = flags.DEFINE_string("count", None, "Count in this folder; used by this script itself.")

STAGES = ("training", "evaluation", "diversity")
_TASKS = 16
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"^(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_CALLED = re.compile(r"(?:body|to_apply|calls|condition)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def main(argv: list[str]) -> None:
    if COUNT.value:
        print(json.dumps(_count(Path(COUNT.value))))
        return
    found = {}
    for devices in map(int, DEVICES.value):
        with tempfile.TemporaryDirectory() as folder:
            # LLVM does not optimise what it makes of the programs, which saves minutes and changes none of them.
            xla = f"--xla_force_host_platform_device_count={devices} --xla_dump_to={folder} --xla_dump_hlo_as_text"
            xla += " --xla_backend_optimization_level=0"
            environment = {**os.environ, "XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
            line = [sys.executable, __file__, f"--count={folder}"]
            done = subprocess.run(line, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found[devices] = json.loads(done.stdout.splitlines()[-1])
    print(f"| devices | {' | '.join(STAGES)} |\n|--:|{'--:|' * len(STAGES)}")
    for devices, work in found.items():
        cells = [f"{work[stage] / 1e6:,.1f} M ({work[stage] / found[min(found)][stage]:.3f})" for stage in STAGES]
        print(f"| {devices} | {' | '.join(cells)} |")
    if FIGURE.value:
        _draw(found)


def _count(folder: Path) -> dict[str, float]:
    """The work of a device in each stage."""
    import jax
    import numpy as np

    from jaxdiv import MAML, evaluate, load_probe, make_network, sample_tasks
    from jaxdiv.data.table import make_table, place
    from jaxdiv.methods import step
    from jaxdiv.methods.parallel import all_devices, make_mesh, replicate
    from jaxdiv.methods.sampling import TestTasks, spread_table
    from jaxdiv.task2vec.embed import embed_tasks

    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (12, 28, 28, 3), dtype=np.uint8) for _ in range(8)]
    table = place(make_table(pixels, [f"class {number}" for number in range(8)], (0.5,) * 3, (0.2,) * 3))
    mesh, key = make_mesh(_TASKS), jax.random.key(0)
    method = MAML(make_network("conv4", 5, 28, 8), mesh=mesh, tasks_at_once=1)
    settings, size = step.TrainSettings(1), dict(ways=5, shots=2, queries=2)
    state = replicate(step.first_state(method, settings, key), mesh)
    tasks, probe = sample_tasks(key, table, **size, tasks=_TASKS), load_probe("resnet10_narrow")

    def training() -> None:
        batch = method.sample(key, spread_table(table, mesh), _TASKS, **size, augment=False)
        jax.block_until_ready(step.update(method, settings, mesh, state, batch, key))

    def evaluation() -> None:
        params, model_state = method.init(key)
        evaluate(method, params, model_state, TestTasks(table, **size), key, _TASKS, chunk=_TASKS, mesh=all_devices())

    def diversity() -> None:
        embed_tasks(probe, tasks.query_images, tasks.query_labels, 5, tasks_at_once=1)

    # Training and the evaluation are one program run once; diversity is one that embeds a task on each device, and runs
    # until all are embedded.
    runs = {"diversity": -(-_TASKS // jax.device_count())}
    found = {}
    for stage in (training, evaluation, diversity):
        before = {*folder.glob("*after_optimizations.txt")}
        stage()
        programs = {*folder.glob("*after_optimizations.txt")} - before
        once = sum(work_of(file.read_text()) for file in programs)
        found[stage.__name__] = float(once * runs.get(stage.__name__, 1))
    return found


def work_of(program: str) -> float:
    """The multiplications and additions of a compiled program (HLO as text) on one device."""
    computations: dict[str, list[re.Match]] = {}
    entry, lines = "", []
    for line in map(str.strip, program.splitlines()):
        if begins := _COMPUTATION.match(line):
            lines = computations.setdefault(begins[1], [])
            entry = begins[1] if line.startswith("ENTRY") else entry
        elif operation := _OPERATION.match(line):
            lines.append(operation)
    known: dict[str, float] = {}

    def of(name: str) -> float:
        if name not in known:
            known[name] = 0.0
            shapes = {each[1]: _sizes(each[2]) for each in computations.get(name, ())}
            known[name] = sum(of_operation(each, shapes) for each in computations.get(name, ()))
        return known[name]

    def of_operation(operation: re.Match, shapes: Mapping[str, list[int]]) -> float:
        _, result, kind, rest = operation.groups()
        trips = int(found[1]) if kind == "while" and (found := _TRIPS.search(rest)) else 1
        inside = trips * sum(map(of, _CALLED.findall(rest)))
        if kind == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
            inside += (
                max((of(name.strip().lstrip("%")) for name in branches[1].split(",")), default=0) if branches else 0
            )
        operands = [shapes.get(name, []) for name in re.findall(r"%([\w.-]+)", rest.split("), ")[0])]
        if kind == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
            axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
            return inside + 2 * math.prod(_sizes(result)) * math.prod(operands[0][axis] for axis in axes)
        if kind == "convolution":
            labels = re.search(r"dim_labels=\w+_(\w+)->", rest)
            kernel = operands[1]
            outputs = kernel[labels[1].index("o")] if labels else 1
            return inside + 2 * math.prod(_sizes(result)) * math.prod(kernel) / outputs
        return inside

    return of(entry)


def _sizes(shape: str) -> list[int]:
    """Of "f32[2,3]{1,0}"; none of a tuple."""
    found = re.match(r"\w+\[([\d,]*)\]", shape)
    return [int(size) for size in found[1].split(",") if size] if found else []


def _draw(found: Mapping[int, Mapping[str, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes, least = figure.subplots(), min(found)
    axes.plot([*found], [least / devices for devices in found], ":", color="0.5", label="work / devices")
    for stage, marker in zip(STAGES, "osD", strict=True):
        axes.plot([*found], [work[stage] / found[least][stage] for work in found.values()], marker, label=stage, ms=5)
    axes.set(xlabel="devices", ylabel="work of a device, share of one's", xscale="log", yscale="log")
    axes.set_xticks([*found], [*map(str, found)])
    axes.set_yticks([least / devices for devices in found], [f"{least / devices:.3g}" for devices in found])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(FIGURE.value, dpi=150)


if __name__ == "__main__":
    app.run(main)
