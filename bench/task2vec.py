"""One Task2Vec task end to end (features, head, Fisher): jaxdiv against PyTorch, same weights, images and threads.

    pip install -e '.[bench]'
    python bench/task2vec.py --pixels=84 --out=fisher.md
    python bench/task2vec.py --probe=vit_small --pixels=224

The sides alternate in one run; each row has its own process, and so its own peak memory. The median counts.
The PyTorch side is in `torch_peers.py`: (a) the reference's procedure, (b) the ways to per-sample squared gradients.
Exits 1 where jaxdiv's exact Fisher or an exact peer's is not that of float64.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import sides
from absl import app, flags
from sides import Failed, Worker

PROBE = flags.DEFINE_enum("probe", "resnet18", ["resnet18", "vit_small"], "The network, with random weights.")
PIXELS = flags.DEFINE_list("pixels", "84", "Image sizes, a comma between them.")
IMAGES = flags.DEFINE_integer("images", 100, "Images of the task.", lower_bound=5)
WAYS = flags.DEFINE_integer("ways", 5, "Classes of the task.", lower_bound=2)
THREADS = flags.DEFINE_integer("threads", 1, "Cores, for both sides.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds in which every row is timed once.", lower_bound=1)
REFERENCE_ROUNDS = flags.DEFINE_integer("reference_rounds", 1, "Rounds of the `reference` rows: minutes each.")
REFERENCE_BATCHES = flags.DEFINE_integer(
    "reference_batches", 156, "Fisher batches that torch's reference runs; fewer: its time is extrapolated.", 1, 156
)
SEED = flags.DEFINE_integer("seed", 0, "Of the weights and the images.")
ROWS_WANTED = flags.DEFINE_list("rows", "", "Names of the rows to run (default: all).")
OUT = flags.DEFINE_string("out", None, "Markdown file for the tables.")

# Of float32 against jaxdiv's own float64, relative, L2. Rounding turns about one ReLU in a million on or off, and each
# moves gradients by a finite step: √1e-6 of the whole, in every float32 implementation. Peers only show that it is the
# same quantity.
TOLERANCE, PEERS_TOLERANCE = 1e-3, 5e-3


class Row(NamedTuple):
    side: str
    estimator: str

    @property
    def name(self) -> str:
        return f"{self.side} {self.estimator}"

    @property
    def kind(self) -> str:
        """What it may be compared with: `mc` and `rademacher` are the same work, one backward pass."""
        return self.estimator if self.estimator in ("exact", "reference") else "one pass"


ROWS = [
    *(Row("jaxdiv", estimator) for estimator in ("exact", "rademacher", "mc", "reference")),
    Row("torch", "reference"),
    *(Row("torch.func", estimator) for estimator in ("exact", "rademacher")),
    *(Row("loop", estimator) for estimator in ("exact", "rademacher")),
    *(Row("BackPACK", estimator) for estimator in ("exact", "mc")),
]
OURS, JUDGE, REFERENCE = ROWS[0], Row("torch.func", "exact"), Row("torch", "reference")


class Run(NamedTuple):
    seconds: float  # without compilation
    compiling: float
    cpu_share: float  # of the cores' time
    embedding: np.ndarray


@dataclass
class Result:
    runs: list[Run]
    compiling: float = 0.0
    peak: float = 0.0


def _set_up(row: Row, job: Mapping[str, Any], commands: sides.Commands) -> str:
    if row.side == "jaxdiv":
        found, note = _jax_commands(row.estimator, job)
    else:
        import torch_peers

        found, note = torch_peers.commands(row.side, row.estimator, job)

    def timed(seed: int) -> Run:
        gc.collect()
        compiling = found.get("compiling", lambda: 0.0)
        compiling()
        start, cpu = time.perf_counter(), time.process_time()
        embedding, left_out = found["run"](seed)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        compiled = compiling()
        return Run(seconds - compiled + left_out, compiled, cpu / seconds / job["threads"], embedding)

    commands.update(found, timed=timed)
    return note


def _jax_commands(estimator: str, job: Mapping[str, Any]) -> tuple[dict[str, Callable[..., Any]], str]:
    import jax
    import jax.numpy as jnp

    from jaxdiv import load_probe
    from jaxdiv.task2vec import fisher
    from jaxdiv.task2vec.embed import embed
    from jaxdiv.task2vec.head import fit_head

    if estimator not in fisher.ESTIMATORS:
        raise LookupError("not in jaxdiv.task2vec.fisher.ESTIMATORS")
    compiling = sides.jax_compiling()
    abstract = jax.eval_shape(lambda: load_probe(job["probe"]))
    probe = abstract.replace(params=jax.tree.map(jnp.asarray, job["params"]))
    images, labels, ways = jnp.asarray(job["images"]), jnp.asarray(job["labels"]), job["ways"]

    def run(seed: int) -> tuple[np.ndarray, float]:
        kind = "adam" if estimator == "reference" else "converged"
        found = embed(probe, images, labels, ways, estimator, jax.random.key(seed), head=kind)
        return np.asarray(found), 0.0

    def head() -> tuple[np.ndarray, np.ndarray]:
        kernel, bias = fit_head(fisher.pooled_features(probe, images), labels, ways)
        return np.asarray(kernel), np.asarray(bias)

    def of_head(head: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.asarray(fisher.fisher(probe, images, head, estimator, jax.random.key(0)))

    def of_head64(head: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (job["params"], head))
            exact = abstract.replace(params=double[0])
            return np.asarray(fisher.fisher(exact, jnp.asarray(job["images"], jnp.float64), double[1]))

    return {"run": run, "head": head, "fisher": of_head, "fisher64": of_head64, "compiling": compiling}, ""


class Layer(NamedTuple):
    """A convolution, or a dense layer over tokens, as one image meets it."""

    pixels: int  # of the output
    inputs: int
    filters: int
    kernel: int = 1
    stride: int = 1

    @property
    def macs(self) -> int:
        return self.pixels * self.kernel**2 * self.inputs * self.filters


def _of_resnet(probe: Any, pixels: int) -> tuple[dict[str, np.ndarray], list[Layer]]:
    """torchvision's tensors, and the layers."""
    import jax

    from jaxdiv.probes.resnet import PERTURBATIONS, at, layers

    params, tensors, found = probe.params, {}, []
    one = jax.ShapeDtypeStruct((1, pixels, pixels, 3), np.float32)
    shapes = jax.eval_shape(lambda x: probe.net.apply(probe.variables, x, mutable=[PERTURBATIONS])[1], one)
    for layer in layers(probe.net):
        norm, stats = at(params["params"], layer.norm), at(params["batch_stats"], layer.norm)
        tensors[f"{layer.conv}.weight"] = at(params["params"], layer.conv)["kernel"].transpose(3, 2, 0, 1)
        tensors |= {f"{layer.norm}.weight": norm["scale"], f"{layer.norm}.bias": norm["bias"]}
        tensors |= {f"{layer.norm}.running_mean": stats["mean"], f"{layer.norm}.running_var": stats["var"]}
        _, h, w, filters = at(shapes[PERTURBATIONS], layer.norm)["output"].shape
        found.append(Layer(h * w, layer.inputs, filters, layer.kernel, layer.stride))
    return tensors, found


def _of_vit(probe: Any, pixels: int) -> tuple[dict[str, np.ndarray], list[Layer]]:
    """timm's tensors, and the layers."""
    net, params = probe.net, probe.params
    tensors = {name: params[name] for name in ("cls_token", "pos_embed")}
    for name in net.norms:
        tensors |= {f"{name}.weight": params[name]["scale"], f"{name}.bias": params[name]["bias"]}
    for name in net.dense:
        tensors |= {f"{name}.weight": params[name]["kernel"].T, f"{name}.bias": params[name]["bias"]}
    patches = params["patch_embed.proj"]["kernel"].reshape(net.patch, net.patch, 3, net.width)
    tensors["patch_embed.proj.weight"] = patches.transpose(3, 2, 0, 1)
    return tensors, [Layer(net.tokens(name, pixels, pixels), *size) for name, size in net.dense.items()]


def task(pixels: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The weights and the images of all rows -> job, and the GFLOP that each row's algorithm needs for them."""
    import jax

    from jaxdiv import load_probe
    from jaxdiv.data import synthetic
    from jaxdiv.probes.gradients import multiply_adds

    ways, count = WAYS.value, IMAGES.value
    probe = load_probe(PROBE.value, seed=SEED.value)
    rendered, _ = synthetic.generate(jax.random.key(SEED.value), 0.5, ways, count // ways, pixels)
    images = rendered.reshape(count, pixels, pixels, 3).astype(np.float32) / 255
    images = (images - images.mean((0, 1, 2))) / images.std((0, 1, 2))
    tensors, layers = (_of_resnet if PROBE.value == "resnet18" else _of_vit)(probe, pixels)
    job = {
        "probe": PROBE.value,
        "images": images,
        "labels": np.repeat(np.arange(ways, dtype=np.int32), count // ways),
        "ways": ways,
        "threads": THREADS.value,
        "reference_batches": REFERENCE_BATCHES.value,
        "params": jax.tree.map(np.asarray, probe.params),
        "tensors": {name: np.array(value) for name, value in tensors.items()},
    }

    # Multiply-adds of the layers for one image: forward, of the first alone, and of jaxdiv's squared norms.
    forward, stem = sum(layer.macs for layer in layers), layers[0].macs
    squares = {columns: sum(_squares(layer, columns, multiply_adds) for layer in layers) for columns in (1, ways - 1)}

    def per_image(row: Row) -> int:
        backward = 2 * forward - stem  # inputs (not the image) and weights
        columns = ways - 1 if row.kind == "exact" else 1
        if row.side == "jaxdiv":
            return 2 * forward + columns * (forward - stem) + squares[columns]
        if row.side == "BackPACK":  # its loss has `ways` columns, and the gradient comes along
            return 2 * forward + (1 + (ways if row.kind == "exact" else 1)) * backward
        return 2 * forward + columns * backward

    gflop = {row.name: 2e-9 * count * per_image(row) for row in ROWS}
    reference = 2e-9 * (count * forward + 156 * 64 * (3 * forward - stem))
    return job, gflop | {row.name: reference for row in ROWS if row.kind == "reference"}


def _squares(layer: Layer, columns: int, multiply_adds: Callable[..., tuple[int, int]]) -> int:
    """Of the way that `kernel_squares` takes."""
    return min(multiply_adds(layer.pixels, layer.inputs, layer.filters, columns, layer.kernel, layer.stride))


def relative_error(found: np.ndarray, truth: np.ndarray, free_scale: bool = False) -> float:
    found = found.astype(np.float64)
    scale = found @ truth / (found @ found) if free_scale else 1.0
    return float(np.linalg.norm(scale * found - truth) / np.linalg.norm(truth))


def measure(pixels: int, wanted: list[Row], say: Callable[[str], None]) -> bool:
    """All rows at one image size, and their table. False where the exact Fishers disagree."""
    job, gflop = task(pixels)
    gemm = Worker(sides.nothing)
    rates = gemm.ask("gemm")
    gemm.close()
    say(f"\n## {PROBE.value}, {pixels} px, {IMAGES.value} images, {WAYS.value} ways, {THREADS.value} core(s)\n")
    say(f"Float32 gemm: NumPy {rates[0]:.1f}, torch {rates[1]:.1f} GFLOP/s.")
    workers: dict[Row, Worker] = {}
    results: dict[Row, Result] = {}
    notes: list[str] = []

    def ask(row: Row, *question: Any) -> Any:
        """None, and the row is out, where its process fails."""
        try:
            return workers[row].ask(*question)
        except Failed as error:
            notes.append(f"{row.name} did not run: {error}.")
            print(notes[-1], file=sys.stderr)
            workers.pop(row).close()

    try:
        for row in wanted:
            own = {k: v for k, v in job.items() if k != ("tensors" if row.side == "jaxdiv" else "params")}
            workers[row] = Worker(partial(_set_up, row, own))
            note = ask(row, "set_up")
            if note:
                notes.append(f"{row.name}: {note}.")
            results[row] = Result([])
            if note is not None and row.side == "jaxdiv" and row.kind != "reference":
                first = ask(row, "timed", 0)  # it compiles, and is not counted
                results[row].compiling = first.compiling if first else 0.0
        if not agree(workers, wanted, say):
            return False
        for number in range(REPEATS.value):
            for row in list(workers):
                if row.kind == "reference" and number >= REFERENCE_ROUNDS.value:
                    continue
                run = ask(row, "timed", number)
                if run is not None:
                    results[row].runs.append(run)
                    results[row].compiling = results[row].compiling or run.compiling
                    results[row].peak = ask(row, "peak")
                    print(f"round {number + 1}: {row.name} {run.seconds:.2f} s", file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    table({row: results[row] for row in wanted if row in workers and results[row].runs}, max(rates), gflop, notes, say)
    return True


def agree(workers: Mapping[Row, Worker], wanted: list[Row], say: Callable[[str], None]) -> bool:
    """Whether jaxdiv's exact Fisher, and each exact peer's, is what jaxdiv computes in float64; all with one head."""
    if not {OURS, JUDGE} <= set(wanted):
        say(f"Agreement was not checked: it takes the rows {OURS.name} and {JUDGE.name}.\n")
        return True
    try:
        if not {OURS, JUDGE} <= set(workers):
            raise Failed("one of them did not start")
        head = workers[OURS].ask("head")
        truth = workers[OURS].ask("fisher64", head)
        exact = [row for row in workers if row.kind == "exact"]
        apart = {row.name: relative_error(workers[row].ask("fisher", head), truth) for row in exact}
    except Failed as error:
        print(f"error: agreement of {OURS.name} with {JUDGE.name} could not be checked: {error}", file=sys.stderr)
        return False
    text = ", ".join(f"{name} {error:.1e}" for name, error in apart.items())
    say(f"Float32 against {OURS.name} in float64, all with one head (relative, L2): {text}.\n")
    if apart.pop(OURS.name) >= TOLERANCE or max(apart.values()) >= PEERS_TOLERANCE:
        print(f"error: {OURS.name} or a peer is too far from float64: {text}", file=sys.stderr)
        return False
    return True


def table(
    results: Mapping[Row, Result],
    gemm: float,
    gflop: Mapping[str, float],
    notes: list[str],
    say: Callable[[str], None],
) -> None:
    seconds = {row: statistics.median(run.seconds for run in result.runs) for row, result in results.items()}
    reference = seconds.get(REFERENCE)
    best: dict[str, float] = {}
    for row, value in seconds.items():
        if row.side not in ("jaxdiv", "torch"):
            best[row.kind] = min(value, best.get(row.kind, value))
    truth = results[OURS].runs[0].embedding if OURS in results else None
    say("| row | s a task | (a) takes | best (b) takes | images/s | GFLOP/s | of gemm | compile s | peak MB | error |")
    say("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row, result in results.items():
        free = row.kind == "reference"
        errors = [] if truth is None else [relative_error(run.embedding, truth, free) for run in result.runs]
        rate = gflop[row.name] / seconds[row]
        part = row == REFERENCE and REFERENCE_BATCHES.value < 156
        cells = [
            row.name + (" (a)" if row == REFERENCE else "" if row.side == "jaxdiv" else " (b)"),
            f"{'≈' if part else ''}{seconds[row]:.3g}",
            f"{reference / seconds[row]:.2f}x" if reference else "–",
            f"{best[row.kind] / seconds[row]:.2f}x" if row.kind in best else "–",
            f"{IMAGES.value / seconds[row]:.3g}",
            f"{rate:.1f}",
            f"{rate / gemm:.0%}",
            f"{result.compiling:.1f}" if row.side == "jaxdiv" else "–",
            f"{result.peak:.0f}",
            f"{statistics.median(errors):.1e}" if errors and row != OURS else "–",
        ]
        say(f"| {' | '.join(cells)} |")
        if part:
            notes.append(f"{row.name}: EXTRAPOLATED from {REFERENCE_BATCHES.value} of its 156 Fisher batches.")
        if len(result.runs) != REPEATS.value:
            notes.append(f"{row.name}: {len(result.runs)} round(s) of {REPEATS.value}.")
        busy = statistics.median(run.cpu_share for run in result.runs)
        if busy < 0.9:
            notes.append(f"{row.name}: had its core {busy:.0%} of the time. THE MACHINE WAS BUSY.")
    say("")
    for note in notes:
        say(f"- {note}")


LEGEND = """\
Random weights. Medians of {repeats} round(s), the rows in turn. *(a) takes*, *best (b) takes*: how many
times this row's seconds; with (b), `exact` is compared with `exact` and one backward pass (`rademacher`, `mc`) with
the fastest of those. GFLOP/s: twice the multiply-adds that the row's convolutions or dense layers have as direct sums;
norms, attention, head and padding do not count. jaxdiv needs fewer: 3x3 ones go by minimal filtering (up to 3.24 times
fewer), and `reference` computes a batch's copies of an image once. *Of gemm*: of the faster gemm. Compile: tracing and
compiling, not in the seconds. Peak MB: of the row's process, its libraries and compilation included. Error: of the
embedding against jaxdiv's exact one, relative, L2, median of the rounds (each a new draw); of `reference`, whose F is
64 times smaller and whose batch norm uses the batch's statistics, after the best single scale."""


PACKAGES = ("numpy", "jax", "jaxlib", "flax", "torch", "backpack-for-pytorch")


def main(argv: list[str]) -> int:
    unknown = set(ROWS_WANTED.value) - {row.name for row in ROWS}
    if len(argv) > 1 or unknown:
        print(f"error: unknown: {[*argv[1:], *sorted(unknown)]}; rows: {[row.name for row in ROWS]}", file=sys.stderr)
        return 1
    if IMAGES.value % WAYS.value:
        print("error: --images must be a multiple of --ways", file=sys.stderr)
        return 1
    wanted = [row for row in ROWS if not ROWS_WANTED.value or row.name in ROWS_WANTED.value]
    wrong = sides.pin(THREADS.value)
    if wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 1
    say = sides.Report(OUT.value)
    say(f"# Task2Vec, one task end to end\n\n{sides.machine(PACKAGES)}.\n\n{LEGEND.format(repeats=REPEATS.value)}")
    for pixels in PIXELS.value:
        if not measure(int(pixels), wanted, say):
            return 1
    return 0


if __name__ == "__main__":
    app.run(main)
