"""Does every program of the paper's grid fit a TPU v5e and an H100, and what does XLA make of it? Neither is needed.

    pip install -e '.[tpu]' && python bench/compile.py --device=v5e --results=v5e.jsonl --out=v5e.md
    pip install -e '.[cuda]' && python bench/compile.py --device=h100 --results=h100.jsonl --out=h100.md

Each program is compiled ahead of time for a device that is only described, in a process of its own, with the package's
defaults: it chooses how many tasks it computes at once, and whether it recomputes activations, by what XLA says that
the compiled program needs. A program that is in --results already is not compiled again, so that a run may be stopped.
--programs=resnet12,evaluation takes those whose names have all of these words; --list names them.

Compilation with full effort takes minutes to an hour of a core for a ResNet-12. --effort=quick takes a fifth to a tenth
of that: XLA then searches less for a fast schedule, and what it makes needs as much memory or more (bench/RESULTS.md),
so that what fits there fits. jax 0.12 no longer has that setting: it wants an earlier one, as on Python 3.11.

Columns: `k`: tasks at once; for Task2Vec also the images of a task at once. `GB`: arguments, results and temporaries.
Convolutions in the optimised program, a loop's body counted once: `plain`; `by batch` and `by feature`: groups, which
is what the tasks' own kernels become; `large windows`: above 7 on a side, a kernel's gradient as a forward convolution,
for which cuDNN has no fast kernel and which a TPU likes. `table copies`: operations that move the whole table.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

DEVICES = ("v5e", "h100")
DEVICE = flags.DEFINE_enum("device", "v5e", DEVICES, "For which device.")
WORDS = flags.DEFINE_list("programs", [], "Only programs whose names have all of these words.")
LIST = flags.DEFINE_boolean("list", False, "Name the programs and end.")
RESULTS = flags.DEFINE_string("results", None, "File of results, one JSON a line: it is added to.")
OUT = flags.DEFINE_string("out", None, "Markdown file for the table.")
EFFORT = flags.DEFINE_enum("effort", "full", ("full", "quick"), "How hard XLA tries.")
PATIENCE = flags.DEFINE_integer("patience", 3600, "Seconds after which a program is given up.", lower_bound=1)
ONE = flags.DEFINE_string("one", None, "For the processes that this starts: the one program to compile.")

GIB = 2**30
# What a program of JAX can have: of an H100's 79.1 GiB the three quarters that JAX takes by default.
BYTES = {"v5e": 15.75 * GIB, "h100": 0.75 * 84_978_434_048}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # without it a second process aborts on a lock file
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# XLA's description of an "NVIDIA H100 80GB HBM3".
H100 = Path(__file__).with_name("h100.txtpb")
WAYS, SHOTS, QUERIES = 5, 5, 15
TABLE = (38_400, (84, 84, 3))  # Mini-ImageNet's train split
LARGE = 7  # the largest kernel of any of the networks: what is above is no kernel


class Learner(NamedTuple):
    net: str
    pixels: int
    channels: int
    train_classes: int


LEARNERS = {
    "conv4 28px": Learner("conv4", 28, 1, 1100),
    "conv4 84px": Learner("conv4", 84, 3, 64),
    "resnet12 84px": Learner("resnet12", 84, 3, 64),
}
PROBES = {"resnet18 84px": 84, "resnet34 84px": 84, "resnet18 224px": 224, "resnet34 224px": 224, "resnet50 224px": 224}
ORDERS = ("fo_maml_5", "ho_maml_5", "fo_maml_10", "ho_maml_10")
PT_BATCH = 256
TESTED = 25
EMBEDDED = 50


class Made(NamedTuple):
    """A program: `choose(limit in bytes)` as the package chooses, and `lower(what was chosen)`."""

    choose: Callable[[float], Any]
    lower: Callable[[Any], Any]


def programs() -> dict[str, Callable[[Any], Made]]:
    """What makes each program of the grid for a device, by its name."""
    named: dict[str, Callable[[Any], Made]] = {
        "sampler, 4 tasks": _sampled_tasks,
        f"sampler, batch of {PT_BATCH}": _sampled_batch,
    }
    for learner in reversed(LEARNERS):
        for method in ("fo_maml_10", "pt", "protonet"):
            named[f"evaluation {learner} {method}, {TESTED} tasks"] = partial(_evaluation, learner, method)
    for learner in reversed(LEARNERS):
        for method in (*ORDERS, "protonet"):
            for tasks in (4, 32):
                named[f"training {learner} {method}, {tasks} tasks"] = partial(_training, learner, method, tasks)
        named[f"training {learner} pt, batch of {PT_BATCH}"] = partial(_training, learner, "pt", PT_BATCH)
    for probe in PROBES:
        named[f"diversity {probe}, {EMBEDDED} tasks"] = partial(_diversity, probe)
    return named


def main(argv: list[str]) -> int:
    if ONE.value:
        print(json.dumps(_one(ONE.value)))
        return 0
    if EFFORT.value == "quick":
        import jax

        if not hasattr(jax.config, "jax_exec_time_optimization_effort"):
            raise app.UsageError(f"jax {jax.__version__} has no quick effort: take jax 0.10, as on Python 3.11")
    wanted = [name for name in programs() if all(word in name for word in WORDS.value)]
    if LIST.value:
        print("\n".join(wanted))
        return 0
    results = {row["program"]: row for row in _rows() if row["program"] in wanted}
    for number, name in enumerate(wanted):
        if name in results:
            continue
        print(f"{number + 1}/{len(wanted)} {name}", file=sys.stderr, flush=True)
        results[name] = _in_process(name)
        if RESULTS.value:
            with Path(RESULTS.value).open("a") as file:
                file.write(json.dumps(results[name]) + "\n")
    text = _table([results[name] for name in wanted])
    print(text, end="")
    if OUT.value:
        Path(OUT.value).write_text(text)
    return int(any(not row.get("fits") for row in results.values()))


def _rows() -> Iterable[dict[str, Any]]:
    """What was found before, for this device with this effort."""
    path = Path(RESULTS.value or "")
    rows = map(json.loads, path.read_text().splitlines()) if path.is_file() else ()
    return [row for row in rows if (row["device"], row["effort"]) == (DEVICE.value, EFFORT.value)]


def _in_process(name: str) -> dict[str, Any]:
    about = {"program": name, "device": DEVICE.value, "effort": EFFORT.value}
    command = [sys.executable, __file__, f"--one={name}", f"--device={DEVICE.value}", f"--effort={EFFORT.value}"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE.value, env={**os.environ, **ENVIRONMENT}
        )
    except subprocess.TimeoutExpired:
        return {**about, "error": f"not compiled after {PATIENCE.value} s"}
    seconds = round(time.monotonic() - start)
    try:
        return {**about, "seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}
    except (IndexError, json.JSONDecodeError):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {**about, "seconds": seconds, "error": said[-1][:200] if said else f"exit code {done.returncode}"}


def _table(rows: list[dict[str, Any]]) -> str:
    head = (
        "program",
        "fits",
        "k",
        "remat",
        "GB",
        "temporaries, GB",
        "plain",
        "by batch",
        "by feature",
        "large windows",
    )
    head = (*head, "table copies", "programs compiled", "CPU s")
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 2)}"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['program']} | {row['error']} |{' |' * (len(head) - 2)}")
            continue
        cells = [row["program"], "yes" if row["fits"] else "**no**", row["k"], row["remat"]]
        cells += [f"{row[name] / 1e9:.2f}" if name in row else "" for name in ("bytes", "temporaries")]
        kinds = ("plain", "by_batch", "by_feature", "large_windows", "table_copies", "compiled", "cpu_seconds")
        cells += [row.get(name, "") for name in kinds]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _one(name: str) -> dict[str, Any]:
    """Choose, compile and look, in this process."""
    import jax

    from jaxdiv.device_memory import FILL, out_of_memory, program_bytes

    if EFFORT.value == "quick":
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    # What the package asks while it traces.
    jax.default_backend = lambda: {"v5e": "tpu", "h100": "gpu"}[DEVICE.value]
    compiled: dict[int, Any] = {}
    start = time.process_time()
    with _each_once(compiled):
        made = programs()[name](_device())
        chosen = made.choose(BYTES[DEVICE.value] * FILL)
        try:
            program = made.lower(chosen).compile()
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error):
                raise
            program = None
    found = {
        "k": f"{chosen.tasks} ({chosen.chunk})" if hasattr(chosen, "chunk") else getattr(chosen, "tasks_at_once", "–"),
        "remat": {None: "–", True: "yes", False: "no"}[getattr(chosen, "remat", None)],
        "compiled": len(compiled),
        "cpu_seconds": round(time.process_time() - start),
    }
    if program is None:
        return {"fits": False, **found}
    needed, temporaries = program_bytes(program), program.memory_analysis().temp_size_in_bytes
    fits = needed <= BYTES[DEVICE.value]
    return {"fits": fits, **found, "bytes": needed, "temporaries": temporaries, **_looked_at(program.as_text())}


def _each_once(compiled: dict[int, Any]) -> Any:
    """While a choice is made, each program is compiled once, although it is asked for again once it is chosen."""
    from unittest import mock

    import jax

    compile = jax.stages.Lowered.compile

    def once(lowered: Any) -> Any:
        which = hash(lowered.as_text())
        if which not in compiled:
            try:
                compiled[which] = compile(lowered)
            except jax.errors.JaxRuntimeError as error:
                compiled[which] = error
        if isinstance(compiled[which], Exception):
            raise compiled[which]
        return compiled[which]

    return mock.patch.object(jax.stages.Lowered, "compile", once)


def _looked_at(text: str) -> dict[str, int]:
    """Kinds of convolutions, and the copies of the table, in an optimised program."""
    found = dict.fromkeys(("plain", "by_batch", "by_feature", "large_windows", "table_copies"), 0)
    moved = re.compile(rf"= \(?u8\[{TABLE[0]},[\d,]*\]\S*.* (copy|copy-start|transpose|reshape|convert|fusion)\(")
    for line in text.splitlines():
        found["table_copies"] += bool(moved.search(line))
        if " convolution(" not in line and "__cudnn$conv" not in line:
            continue
        groups = {
            name: int((re.search(rf"{name}_group_count=(\d+)", line) or "01")[1]) for name in ("batch", "feature")
        }
        kind = "by_batch" if groups["batch"] > 1 else "by_feature" if groups["feature"] > 1 else "plain"
        found[kind] += 1
        window = re.search(r"window=\{size=([\dx]+)", line)
        found["large_windows"] += bool(window) and max(map(int, window[1].split("x"))) > LARGE
    return found


def _device() -> Any:
    """The device that is described, as a mesh of one."""
    import jax
    import numpy as np
    from jax.experimental import topologies

    if DEVICE.value == "v5e":
        described = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    else:
        described = topologies.get_topology_desc(
            platform="cuda", topology_name="h100", target_config=H100.read_text(), topology="1x1x1"
        )
    return jax.sharding.Mesh(np.array(described.devices[:1]), ("tasks",))


def _there(mesh: Any, tree: Any) -> Any:
    """Shapes of arrays that are on the device."""
    import jax

    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree)


def _image_table() -> Any:
    import jax
    import numpy as np

    from jaxdiv.data.table import DeviceImages, table_of, tile_shape

    rows, of_image = TABLE
    images = jax.ShapeDtypeStruct((rows, *tile_shape(of_image)), np.uint8)
    outline = table_of(np.zeros((rows, 1, 1, 1), np.uint8), [rows // 64] * 64, ["class"] * 64, (0.5,) * 3, (0.2,) * 3)
    return outline.replace(images=DeviceImages(images, of_image))


def _sampled_tasks(mesh: Any) -> Made:
    import jax

    from jaxdiv.data.episodes import sample_tasks

    key, table = _there(mesh, (jax.eval_shape(lambda: jax.random.key(0)), _image_table()))
    draw = partial(sample_tasks, ways=WAYS, shots=SHOTS, queries=QUERIES, tasks=4)
    return Made(lambda limit: None, lambda _: jax.jit(draw).lower(key, table))


def _sampled_batch(mesh: Any) -> Made:
    import jax

    from jaxdiv.data.episodes import sample_batch

    key, table = _there(mesh, (jax.eval_shape(lambda: jax.random.key(0)), _image_table()))
    return Made(lambda limit: None, lambda _: jax.jit(partial(sample_batch, size=PT_BATCH)).lower(key, table))


def _tasks(learner: Learner, tasks: int) -> Any:
    import jax
    import numpy as np

    from jaxdiv.data.episodes import Task

    def part(each: int) -> tuple[Any, Any]:
        labels = jax.ShapeDtypeStruct((tasks, WAYS * each), np.int32)
        return jax.ShapeDtypeStruct(
            (*labels.shape, learner.pixels, learner.pixels, learner.channels), np.float32
        ), labels

    return Task(*part(SHOTS), *part(QUERIES))


def _method(learner: Learner, name: str) -> Any:
    from jaxdiv.methods.base import make_method
    from jaxdiv.nets.network import make_network

    net = make_network(learner.net, WAYS, learner.pixels, channels=learner.channels)
    return make_method(name, net, WAYS, learner.train_classes, {})


def _training(learner: str, name: str, size: int, mesh: Any) -> Made:
    import jax
    import numpy as np

    from jaxdiv.device_memory import Fit
    from jaxdiv.methods import step

    method, settings = _method(LEARNERS[learner], name), step.TrainSettings(1)
    images = _tasks(LEARNERS[learner], size)
    if name == "pt":
        shape = images.support_images.shape
        images = jax.ShapeDtypeStruct((size, *shape[2:]), np.float32), jax.ShapeDtypeStruct((size,), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    given = _there(mesh, (step.abstract_state(method, settings), images, key))
    rounds = bool(method.remats)
    return Made(
        lambda limit: step.fit(method, settings, None, *given, limit) if rounds else None,
        lambda fit: step.lower(method.at(fit) if isinstance(fit, Fit) else method, settings, None, *given),
    )


def _evaluation(learner: str, name: str, mesh: Any) -> Made:
    import jax

    from jaxdiv.methods import evaluate

    method, key = _method(LEARNERS[learner], name).tested, jax.random.key(0)
    keys = jax.eval_shape(lambda: jax.random.split(key, TESTED))
    given = _there(mesh, (*jax.eval_shape(method.init, key), _tasks(LEARNERS[learner], TESTED), keys))
    return Made(
        lambda limit: evaluate.fit(method, None, given, TESTED, limit),
        lambda fit: evaluate.lower(method, None, given, fit.tasks_at_once),
    )


def _diversity(probe: str, mesh: Any) -> Made:
    import jax
    import numpy as np

    from jaxdiv.device_memory import tree_bytes
    from jaxdiv.probes.registry import load_probe
    from jaxdiv.task2vec import memory, program

    name, pixels, examples = probe.split()[0], PROBES[probe], WAYS * (SHOTS + QUERIES)
    loaded = jax.eval_shape(partial(load_probe, name))  # shapes alone
    images = jax.ShapeDtypeStruct((examples, pixels, pixels, 3), np.float32)
    task = images, jax.ShapeDtypeStruct((examples,), np.int32), jax.ShapeDtypeStruct((2,), np.uint32)
    kind = jax.random.key_impl(jax.random.key(0))

    def choose(limit: float) -> Any:
        free = int(limit) - tree_bytes(loaded) - TABLE[0] * int(np.prod(TABLE[1]))
        return memory.choose(loaded, images, WAYS, "exact", EMBEDDED, free)

    def lower(at_once: Any) -> Any:
        how = program.How(WAYS, "exact", "converged", at_once.chunk, kind)
        return program.embedder(mesh, how).lower(*program.abstract(mesh, loaded, task, at_once.tasks))

    return Made(choose, lower)


if __name__ == "__main__":
    app.run(main)
