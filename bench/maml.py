"""One meta-step of MAML (meta-batch of 2 tasks, 5-way 5-shot, 15 queries): jaxdiv against PyTorch and textbook JAX.

    pip install -e '.[bench]'
    python bench/maml.py --learn2learn=DIR --cases=conv4-28,resnet12-32 --out=maml.md

The sides alternate in one run, each in its own process, so that peak memory is its own; the median counts. Same net,
weights, synthetic images and threads. PyTorch's sides are in `torch_maml.py`; `textbook JAX` is vmap over tasks, scan
over steps and Flax's own layers. Exits 1 where the sides' meta-gradients differ in float64.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import layouts
import numpy as np
import sides
from absl import app, flags
from sides import Failed, Worker

CASES = ("conv4-28", "conv4-84", "resnet12-32", "resnet12-84")
SIDES = (
    "jaxdiv",
    "jaxdiv remat",
    "learn2learn",
    "higher",
    "torch.func loop",
    "torch.func vmap",
    "torch.func compiled",
    "textbook JAX",
)
WANTED = flags.DEFINE_multi_enum("cases", None, CASES, "Nets and pixels.")
ORDERS = flags.DEFINE_multi_enum("orders", None, ("fo", "ho"), "First and higher order.")
STEPS = flags.DEFINE_list("steps", "5,10", "Inner steps that are timed.")
MEMORY_STEPS = flags.DEFINE_list("memory_steps", "", "Inner steps of which only the memory is measured, once each.")
SIDES_WANTED = flags.DEFINE_multi_enum(
    "sides", None, SIDES, "Default: all but `torch.func compiled`, which compiles for minutes a row."
)
LEARN2LEARN = flags.DEFINE_string("learn2learn", None, "Folder of learn2learn's unpacked sources (BUILD.md).")
TASKS = flags.DEFINE_integer("tasks", 2, "Tasks of a meta-step.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 64, "Channels of conv-4, and of ResNet-12's first stage.", lower_bound=2)
THREADS = flags.DEFINE_integer("threads", 1, "Cores, for all sides.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds in which every row is timed once.", lower_bound=1)
PATIENCE = flags.DEFINE_float("patience", 60, "A side whose first step takes more seconds is timed in one round only.")
OUT = flags.DEFINE_string("out", None, "Markdown file for the tables.")

WAYS, SHOTS, QUERIES, RATE = 5, 5, 15, 0.1
# Meta-gradients in float64, relative, L2, after AGREE_STEPS steps. Rounding 1e-16 grows with each step and layer; what
# is another quantity is off by 1e-2 or more.
AGREE_STEPS, TOLERANCE = 2, 1e-9
PACKAGES = ("numpy", "jax", "jaxlib", "flax", "torch", "higher")


class Job(NamedTuple):
    """A meta-step, without its side. Weights in PyTorch's order and layouts, arrays as in `Task`."""

    net: str
    pixels: int
    widths: Sequence[int]
    weights: Sequence[np.ndarray]
    arrays: Sequence[np.ndarray]
    first_order: bool
    steps: int
    threads: int
    learn2learn: str | None


class Run(NamedTuple):
    seconds: float
    cpu_share: float  # of the cores' time


@dataclass
class Result:
    compiling: float = 0.0
    first: float = 0.0
    peak: float = float("nan")  # MB of the whole process, compilation included
    megabytes: float = float("nan")  # of a meta-step, at its peak, above what was in use before it
    runs: list[Run] = field(default_factory=list)


def _set_up(side: str, job: Job, commands: sides.Commands) -> str:
    """In the side's process: `first` compiles, `timed` runs a meta-step, `memory` runs one for its megabytes,
    `gradient` gives the meta-gradient in PyTorch's layouts."""
    make = _jax_side if side.startswith(("jaxdiv", "textbook")) else _torch_side
    step, gradient, note = make(side, job)

    def first() -> tuple[float, float, float]:
        start = time.perf_counter()
        compiling = step()
        return compiling, time.perf_counter() - start, sides.peak()

    def timed() -> Run:
        gc.collect()
        start, cpu = time.perf_counter(), time.process_time()
        compiling = step()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        if compiling:
            raise RuntimeError("it compiled again")
        return Run(seconds, cpu / seconds / job.threads)

    def memory() -> float:
        gc.collect()
        sides.give_back()
        sides.forget_peak()
        before = sides.resident()
        step()
        return sides.peak() - before

    commands.update(first=first, timed=timed, memory=memory, gradient=gradient)
    return note


def _torch_side(side: str, job: Job):
    import torch
    import torch_maml

    torch.set_num_threads(job.threads)
    more = (job.learn2learn,) if side == "learn2learn" else ()

    def made(dtype: type, steps: int):
        """The sides have no state, so a step of another precision or length may be built again."""
        model = torch_maml.make(
            job.net, WAYS, job.widths, job.pixels, job.arrays[0].shape[-1], [w.astype(dtype) for w in job.weights]
        )
        tasks = torch_maml.as_tasks([a.astype(dtype) if a.ndim == 5 else a for a in job.arrays])
        # A compiled side is judged uncompiled: it would compile for minutes, and no code of the peer's is different.
        peer = "torch.func loop" if side == "torch.func compiled" and dtype is np.float64 else side
        return torch_maml.PEERS[peer](model, tasks, steps, RATE, job.first_order, *more)

    meta_step = made(np.float32, job.steps)

    def step() -> float:
        meta_step()
        return 0.0

    def gradient() -> list[np.ndarray]:
        return [g.numpy() for g in made(np.float64, AGREE_STEPS)()[1]]

    return step, gradient, ""


def _jax_side(side: str, job: Job):
    import jax
    import jax.numpy as jnp

    from jaxdiv.data.episodes import Task
    from jaxdiv.methods import maml

    compiling = sides.jax_compiling()
    leaves = layouts.paths(job.net)
    side_of_map = layouts.last_map(job.net, job.pixels)
    net = _textbook(job) if side == "textbook JAX" else _ours(job)
    apply = lambda params, images: net.apply({"params": params}, images, mutable=["batch_stats"])[0][0]
    how = dict(remat=side == "jaxdiv remat", tasks_at_once=len(job.arrays[0]) if side == "textbook JAX" else 1)
    meta_gradient = jax.jit(
        lambda params, tasks, steps: maml.meta_gradient(
            apply, params, tasks, steps, RATE, first_order=job.first_order, **how
        ),
        static_argnums=2,
    )

    def operands(dtype: type) -> tuple[Any, Task]:
        values = [jnp.asarray(layouts.to_ours(w, side_of_map), dtype) for w in job.weights]
        tasks = Task(*(jnp.asarray(a, dtype if a.ndim == 5 else jnp.int32) for a in job.arrays))
        return layouts.tree(leaves, values), tasks

    params, tasks = operands(jnp.float32)

    def step() -> float:
        compiling()
        jax.block_until_ready(meta_gradient(params, tasks, job.steps))
        return compiling()

    def gradient() -> list[np.ndarray]:
        with jax.enable_x64(True):
            found = meta_gradient(*operands(jnp.float64), AGREE_STEPS)[1]
            return [layouts.from_ours(np.asarray(layouts.at(found, path)), side_of_map) for path in leaves]

    return step, gradient, ""


def _ours(job: Job):
    from jaxdiv.nets.conv4 import Conv4
    from jaxdiv.nets.resnet12 import ResNet12

    return Conv4(WAYS, job.widths[0]) if job.net == "conv4" else ResNet12(WAYS, tuple(job.widths), dropout=0.0)


def _textbook(job: Job):
    """The nets as anyone would write them in Flax, under the names of ours."""
    import flax.linen as nn

    norm = partial(nn.BatchNorm, use_running_average=False, epsilon=1e-5, use_fast_variance=False)

    class Conv4(nn.Module):
        @nn.compact
        def __call__(self, x):
            for number in range(4):
                x = nn.Conv(job.widths[0], (3, 3), use_bias=False)(x)
                x = nn.relu(norm(name=f"BatchNorm_{number}")(x))
                x = nn.max_pool(x, (2, 2), (2, 2))
            return nn.Dense(WAYS, name="head")(x.reshape(x.shape[0], -1)), x

    class Block(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            out = x
            for n in (1, 2, 3):
                out = norm(name=f"norm{n}")(nn.Conv(self.width, (3, 3), use_bias=False, name=f"conv{n}")(out))
                out = nn.leaky_relu(out, 0.1) if n < 3 else out
            shortcut = nn.Conv(self.width, (1, 1), use_bias=False, name="shortcut_conv")(x)
            out = nn.leaky_relu(out + norm(name="shortcut_norm")(shortcut), 0.1)
            return nn.max_pool(out, (2, 2), (2, 2))

    class ResNet12(nn.Module):
        @nn.compact
        def __call__(self, x):
            for stage, width in enumerate(job.widths, 1):
                x = Block(width, name=f"block{stage}")(x)
            return nn.Dense(WAYS, name="head")(x.mean((1, 2))), x

    return Conv4() if job.net == "conv4" else ResNet12()


def make_job(case: str, first_order: bool, steps: int, width: int) -> Job:
    import jax

    from jaxdiv.data import synthetic

    net, pixels = case.split("-")[0], int(case.split("-")[1])
    widths = (width,) if net == "conv4" else tuple(round(width * times) for times in (1, 2.5, 5, 10))
    channels = 1 if case == "conv4-28" else 3
    rendered, _ = synthetic.generate(jax.random.key(0), 0.5, TASKS.value * WAYS, SHOTS + QUERIES, pixels)
    images = rendered.reshape(TASKS.value, WAYS, SHOTS + QUERIES, pixels, pixels, 3).astype(np.float32) / 255
    images = images.mean(-1, keepdims=True) if channels == 1 else images
    images = (images - images.mean()) / images.std()
    flat = lambda part: part.reshape(TASKS.value, -1, pixels, pixels, channels)
    labels = lambda count: np.tile(np.repeat(np.arange(WAYS, dtype=np.int32), count), (TASKS.value, 1))
    arrays = [flat(images[:, :, :SHOTS]), labels(SHOTS), flat(images[:, :, SHOTS:]), labels(QUERIES)]
    weights = [w.astype(np.float32) for w in layouts.draw_weights(net, WAYS, widths, channels, pixels)]
    return Job(net, pixels, widths, weights, arrays, first_order, steps, THREADS.value, LEARN2LEARN.value)


def gflop(job: Job) -> float:
    """Of one meta-step: twice the multiply-adds of its convolutions. A gradient is three convolutions a layer, less
    that for the gradient of the images; each has two transposes, which the higher order also needs."""
    pixels, forward, first = job.pixels, 0, 0
    kernels = [w.shape for w in job.weights if w.ndim == 4]
    for number, (filters, inputs, side, _) in enumerate(kernels):
        macs = filters * inputs * side * side * pixels**2
        forward += macs
        first += macs if inputs == job.arrays[0].shape[-1] else 0
        last_of_stage = job.net == "conv4" or number % 4 == 3
        pixels = pixels // 2 if last_of_stage else pixels
    support, query = job.arrays[0].shape[1], job.arrays[2].shape[1]
    once = 3 * forward - first
    again = 0 if job.first_order else 6 * forward - 4 * first
    return 2e-9 * TASKS.value * (job.steps * support * (once + again) + query * once)


def measure(case: str, first_order: bool, steps: int, wanted: Sequence[str], timed: bool, say: sides.Report) -> bool:
    """A table of all sides. False where their meta-gradients differ."""
    job = make_job(case, first_order, steps, WIDTH.value)
    gemm = Worker(sides.nothing)
    rate = max(gemm.ask("gemm"))
    gemm.close()
    order = "FO" if first_order else "HO"
    parameters = sum(w.nbytes for w in job.weights) / 2**20
    say(f"\n## {case} {order}, {steps} inner steps\n\nParameters {parameters:.1f} MB; gemm {rate:.0f} GFLOP/s.")
    workers: dict[str, Worker] = {}
    results: dict[str, Result] = {}
    notes: list[str] = []

    def ask(side: str, *question: Any) -> Any:
        """None, and the side is out, where its process fails."""
        try:
            return workers[side].ask(*question)
        except Failed as error:
            notes.append(f"{side} did not run: {error}.")
            sides.complain(notes[-1])
            workers.pop(side).close()

    try:
        for side in wanted:
            workers[side] = Worker(partial(_set_up, side, job))
            if ask(side, "set_up") is None:
                continue
            if (found := ask(side, "first")) is not None:
                results[side] = Result(*found)
                sides.complain(f"{side}: first step {found[1]:.1f} s, of it {found[0]:.1f} compiling")
        for number in range(REPEATS.value if timed else 1):
            for side in list(workers):
                result = results[side]
                if number and result.first - result.compiling > PATIENCE.value:
                    continue
                if (run := ask(side, "timed")) is not None:
                    result.runs.append(run)
                    sides.complain(f"round {number + 1}: {side} {run.seconds:.3f} s")
        for side in list(workers):
            if (megabytes := ask(side, "memory")) is not None:
                results[side].megabytes = megabytes
    finally:
        for worker in workers.values():
            worker.close()
    table({side: results[side] for side in wanted if side in workers}, rate, gflop(job), notes, timed, say)
    return True


def agree(case: str, first_order: bool, wanted: Sequence[str], say: sides.Report) -> bool:
    """Whether all sides give one meta-gradient in float64. At the full size but for ResNet-12's: a quarter as wide."""
    width = WIDTH.value if case.startswith("conv4") else max(2, WIDTH.value // 4)
    job = make_job(case, first_order, AGREE_STEPS, width)
    gradients: dict[str, np.ndarray] = {}
    for side in wanted:
        worker = Worker(partial(_set_up, side, job))
        try:
            worker.ask("set_up")
            gradients[side] = np.concatenate([np.ravel(g) for g in worker.ask("gradient")])
        except Failed as error:
            say(f"\n{side} gave no meta-gradient of {case}: {error}.")
        finally:
            worker.close()
    ours = next((side for side in gradients if side.startswith("jaxdiv")), None)
    if ours is None or len(gradients) < 2:
        say("\nAgreement was not checked: it takes jaxdiv and another side.")
        return True
    truth = gradients.pop(ours)
    apart = {side: float(np.linalg.norm(g - truth) / np.linalg.norm(truth)) for side, g in gradients.items()}
    text = ", ".join(f"{side} {error:.0e}" for side, error in apart.items())
    order = "FO" if first_order else "HO"
    say(f"\n{case} {order}: meta-gradients in float64 against jaxdiv's, {AGREE_STEPS} steps (relative, L2): {text}.")
    if not max(apart.values()) < TOLERANCE:
        sides.complain("error: the sides' meta-gradients differ")
        return False
    return True


def table(
    results: Mapping[str, Result],
    gemm: float,
    work: float,
    notes: list[str],
    timed: bool,
    say: Callable[[str], None],
) -> None:
    used = lambda run: run.seconds * min(1.0, run.cpu_share) if THREADS.value == 1 else run.seconds
    seconds = {side: statistics.median(map(used, result.runs)) for side, result in results.items()}
    best = min((value for side, value in seconds.items() if not side.startswith("jaxdiv")), default=float("nan"))
    say("\n| side | s a meta-step | best peer takes | GFLOP/s | of gemm | compile s | step MB | process MB |")
    say("|---|--:|--:|--:|--:|--:|--:|--:|")
    for side, result in results.items():
        rate = work / seconds[side]
        compiled = side == "torch.func compiled"
        cells = [
            side,
            f"{seconds[side]:.3g}",
            f"{best / seconds[side]:.2f}x",
            f"{rate:.1f}",
            f"{rate / gemm:.0%}",
            f"{result.first - seconds[side] if compiled else result.compiling:.1f}",
            f"{result.megabytes:.0f}",
            f"{result.peak:.0f}",
        ]
        say(f"| {' | '.join(cells)} |")
        if timed and len(result.runs) != REPEATS.value:
            notes.append(f"{side}: {len(result.runs)} round(s) of {REPEATS.value}.")
        busy = statistics.median(run.cpu_share for run in result.runs)
        if busy < 0.9:
            notes.append(f"{side}: had its core {busy:.0%} of the time. THE MACHINE WAS BUSY.")
    say("")
    for note in notes:
        say(f"- {note}")


LEGEND = """\
Meta-batch of {tasks} tasks, 5-way 5-shot, 15 queries, {threads} core(s), synthetic images, width {width}. Medians of
{repeats} round(s), the sides in turn; with one core its own seconds, so that another job's turns do not count. *Best
peer takes*: how many times this row's seconds. GFLOP/s: twice the
multiply-adds of the convolutions that a meta-step without recomputation needs; *of gemm*: of the faster float32 gemm.
Compile: tracing and compiling, not in the seconds. Step MB: the peak of one more meta-step above
what was in use before it; process MB: of the process until the first step's end, libraries and compilation included."""


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(f"error: unknown: {argv[1:]}", file=sys.stderr)
        return 1
    wrong = sides.pin(THREADS.value)
    if wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 1
    say = sides.Report(OUT.value)
    say(f"# MAML, one meta-step\n\n{sides.machine(PACKAGES)}.\n")
    say(LEGEND.format(tasks=TASKS.value, threads=THREADS.value, width=WIDTH.value, repeats=REPEATS.value))
    wanted = SIDES_WANTED.value or [side for side in SIDES if side != "torch.func compiled"]
    if "learn2learn" in wanted and not LEARN2LEARN.value:
        wanted = [side for side in wanted if side != "learn2learn"]
        say("\nWithout learn2learn, whose folder --learn2learn names (BUILD.md).")
    for case in WANTED.value or CASES:
        for order in ORDERS.value or ("fo", "ho"):
            if not agree(case, order == "fo", wanted, say):
                return 1
            for steps, timed in [*((s, True) for s in STEPS.value), *((s, False) for s in MEMORY_STEPS.value)]:
                if steps:
                    measure(case, order == "fo", int(steps), wanted, timed, say)
    return 0


if __name__ == "__main__":
    app.run(main)
