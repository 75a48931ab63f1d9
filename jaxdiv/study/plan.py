"""The units of a study that a configuration asks for, and what each of them does.

prepare -> select -> diversity -----------------------> correlate -> report
                  -> train -> evaluate (own, fixed) --^
"""

import json
import shutil
import time
import zlib
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from jaxdiv.data import benchmarks, store, synthetic
from jaxdiv.data.episodes import ImageTable, check_tasks, draw_classes, place, sample_tasks, take
from jaxdiv.data.folder import fingerprint
from jaxdiv.files import replacing
from jaxdiv.methods import evaluate, registry, train
from jaxdiv.methods.base import Method, make_method
from jaxdiv.methods.checkpointing import load_params
from jaxdiv.methods.parallel import make_mesh
from jaxdiv.nets.network import make_network
from jaxdiv.probes.registry import load_probe
from jaxdiv.probes.weights import IMAGENET, check_weights, imagenet_file
from jaxdiv.report import report, survey
from jaxdiv.report.curves import Curve, read_curve, write_curves
from jaxdiv.stats.analysis import STATISTICS, analyse
from jaxdiv.study import subsets
from jaxdiv.study.settings import (
    STAGES,
    benchmark_names,
    check,
    fixed_test_set,
    in_flags,
    own_sets,
    weights_file,
    with_preset,
)
from jaxdiv.study.units import Report, Result, Unit, needed, provenance
from jaxdiv.task2vec import fisher
from jaxdiv.task2vec.coefficient import complexity, diversity, noise_floor, pairwise_distances
from jaxdiv.task2vec.embed import embed_benchmark


def _key(seed: int, *purpose: Any) -> jax.Array:
    """A key for one purpose: the same in every run, and no two purposes share a draw."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32("/".join(map(str, purpose)).encode()))


class Maker:
    """Makes the units of one study; holds the configuration and the workdir that all of them share."""

    def __init__(self, config: ConfigDict, workdir: Path):
        config = with_preset(config)
        check(config)
        self.config = config
        self.workdir = workdir
        self.names = benchmark_names(config)
        self.controlled = bool(config.controlled.pool)
        self.task = dict(config.task)
        self.data = benchmarks.DataSettings(
            archive_dir=config.data.archive_dir,
            dir=config.data.dir,
            download=config.data.download,
            partial=config.data.partial,
            min_images=config.task.shots + config.task.queries,
            own=own_sets(config),
            fractions=tuple(config.data.split.fractions),
            split_seed=config.data.split.seed,
            split_file=config.data.split.file,
            skip_broken=config.data.skip_broken,
            classes=tuple(config.data.classes),
            images=config.data.images,
            seed=config.seed,
        )

    def plan(self) -> list[Unit]:
        """Every unit but those of the last two stages, each after its inputs."""
        config = self.config
        measured = [self.diversity(name) for name in self.names]
        trained = list(product(self.names, config.methods, config.seeds))
        tested = [self.evaluation(*which, test_set) for test_set in config.evaluation.test_sets for which in trained]
        units: dict[str, Unit] = {}

        def add(unit: Unit) -> None:
            for need in unit.inputs:
                add(need)
            units[unit.name] = unit

        for unit in (*measured, *tested):
            add(unit)
        return sorted(units.values(), key=lambda unit: STAGES.index(unit.stage))

    def check_inputs(self, lacking: Iterable[Unit]) -> None:
        """Raise InputError for a file or folder of the user's that the units in `lacking` need and that is not there.

        Known at once, while the unit itself may come hours later.
        """
        for unit in lacking:
            if unit.stage == "prepare":
                benchmarks.check_inputs(unit.name.split("/")[1], self.data)
            elif unit.stage in ("select", "diversity") and (weights := weights_file(self.config)):
                check_weights(self.config.probe.name, weights)

    def unit(self, name, settings, run, inputs=(), cost=1.0) -> Unit:
        return Unit(name, settings, run, self.workdir / "units" / name, tuple(inputs), cost)

    def prepared(self, benchmark: str, pixels: int) -> list[Unit]:
        """The units that make a benchmark's base sets."""
        return [self._prepare(base, pixels) for base in self._bases(benchmark)]

    def _bases(self, benchmark: str) -> tuple[str, ...]:
        return benchmarks.components(self._source(benchmark), self.data.own)

    def _source(self, benchmark: str) -> str:
        """Where a benchmark's classes come from: a subset's are the pool's."""
        return self.config.controlled.pool if benchmark in self.names and self.controlled else benchmark

    def _prepare(self, base: str, pixels: int) -> Unit:
        if base in benchmarks.BASE_SETS:
            settings: dict[str, Any] = {"partial": self.data.partial, "min_images": self.data.min_images}
        elif path := self.data.own.get(base):
            settings = {"own": path, "partial": self.data.partial, "min_images": self.data.min_images}
            settings |= {"skip_broken": self.data.skip_broken, "files": fingerprint(Path(path))}
            settings |= {"fractions": self.data.fractions, "split_seed": self.data.split_seed}
            if self.data.split_file:
                settings["split_file"] = fingerprint(Path(self.data.split_file))
        else:
            settings = {"classes": self.data.classes, "images": self.data.images, "seed": self.data.seed}

        def run(unit: Unit, progress: Report) -> Result:
            facts = benchmarks.prepare(base, pixels, self.data, unit.scratch, progress)
            for other in unit.folder.iterdir():  # the table of settings that are no more
                if other.is_dir() and other != unit.scratch:
                    shutil.rmtree(other)
            return facts, {}

        cost = 0.5 if synthetic.spread(base) is not None else 20.0
        return self.unit(f"prepare/{base}/{pixels}px", {"pixels": pixels, **settings}, run, cost=cost)

    def table(self, benchmark: str, pixels: int, split: str) -> ImageTable:
        folders = tuple(unit.scratch for unit in self.prepared(benchmark, pixels))
        classes: tuple[int, ...] | int = 0
        images = 0
        if split == "train" and self.controlled:
            classes, images = tuple(self.selection().result["rows"][benchmark]), self.config.controlled.images
        elif split == "train":
            classes, images = self.config.data.cut.classes, self.config.data.cut.images
        own = tuple(self.data.own)
        table = _table(self._source(benchmark), folders, split, classes, images, self.config.seed, own)
        check_tasks(f"benchmark {benchmark!r} ({split} split)", table, **self.task)
        return table

    def selection(self) -> Unit:
        """The subsets of a controlled experiment: of equal size, and of low, middle and high diversity."""
        chosen, probe = self.config.controlled, self.config.probe

        def run(unit: Unit, progress: Report) -> Result:
            folders = tuple(need.scratch for need in unit.inputs)
            pool = _table(chosen.pool, folders, "train", 0, 0, self.config.seed, tuple(self.data.own))
            sets = np.bincount(pool.dataset, minlength=len(pool.rotates)).clip(max=chosen.candidates).tolist()
            with in_flags(quotas="--config.controlled.candidates", images="--config.controlled.images"):
                rows = draw_classes(chosen.pool, pool, sets, chosen.images, self.config.seed)
            net = self.probe(progress)
            key = _key(self.config.seed, unit.name)
            heard = lambda done: progress(done / len(rows), f"class {done} of {len(rows)}")
            embedded = subsets.embed_classes(net, pool, rows, chosen.images, key, self.config.seed, heard)
            distances = pairwise_distances(embedded, probe.distance)
            kinds = np.asarray(pool.dataset)[rows]
            found = subsets.choose(distances, kinds, chosen.classes, chosen.subsets, self.config.seed)
            picked = {name: [int(rows[i]) for i in of_subset] for name, of_subset in found.items()}
            facts = {
                "rows": picked,
                "classes": {name: [pool.classes[row] for row in of_subset] for name, of_subset in picked.items()},
                "class_distance": {
                    name: subsets.mean_distance(distances, of_subset) for name, of_subset in found.items()
                },
            }
            return facts, {"embeddings": embedded}

        settings = {"controlled": dict(chosen), "probe": self._probe_settings(), "seed": self.config.seed}
        inputs = self.prepared(chosen.pool, probe.pixels)
        cost = chosen.candidates * len(inputs) * (0.05 if probe.name == "resnet10_narrow" else 1.5)
        return self.unit(f"select/{probe.name}", settings, run, inputs, cost)

    def probe(self, progress: Report):
        probe, weights = self.config.probe, weights_file(self.config)
        if weights == Path(IMAGENET):
            weights = imagenet_file(probe.name, lambda share: progress(0.0, f"downloading weights, {share:.0%}"))
        return _probe(probe.name, weights, probe.seed)

    def _probe_settings(self) -> dict[str, Any]:
        """What a class's embedding depends on, of the probe's settings."""
        return {name: self.config.probe[name] for name in ("name", "weights", "seed", "pixels", "distance")}

    def _measured(self) -> dict[str, Any]:
        """How diversity is measured, besides what its row always said."""
        probe = self.config.probe
        how = {"augment": self.config.data.augment.diversity, "pixels": probe.pixels, "weights": probe.weights}
        return {**how, **self.task}

    def _cut(self) -> dict[str, Any]:
        """What of the settings cuts a train split smaller, if anything does."""
        cut = dict(self.config.data.cut)
        return {"cut": cut} if any(cut.values()) else {}

    def _inputs(self, benchmark: str, pixels: int) -> list[Unit]:
        """What a train split is made from."""
        return [*self.prepared(benchmark, pixels), *([self.selection()] if self.controlled else [])]

    def _shown(self) -> Iterable[str]:
        """The benchmarks whose images are shown: of subsets, the pool that they are from."""
        return [self.config.controlled.pool] if self.controlled else self.names

    def _generated(self) -> list[str]:
        """The benchmarks whose every image is generated."""
        return [name for name in self.names if all(synthetic.spread(base) is not None for base in self._bases(name))]

    def show_data(self, units: Iterable[Unit], console: Console) -> None:
        """`WORKDIR/data`: what was prepared from which archives, and a contact sheet of each benchmark."""
        folder = self.workdir / "data"
        tables = {unit.name.removeprefix("prepare/"): unit.result for unit in units if unit.stage == "prepare"}
        manifest: dict[str, Any] = {"tables": tables, "benchmarks": {}}
        pixels = max([self.config.probe.pixels, *([self.config.learner.pixels] if self.config.methods else [])])
        for name in self._shown():
            parts = [unit.result for unit in self.prepared(name, pixels)]
            of_split = lambda split, parts=parts: {
                what: sum(part[split][what] for part in parts) for what in ("classes", "images")
            }
            whole = {"components": benchmarks.components(name, self.data.own), "pixels": pixels}
            manifest["benchmarks"][name] = whole | {split: of_split(split) for split in benchmarks.SPLITS}
        text = json.dumps(manifest, indent=1)
        file = folder / "manifest.json"
        if file.exists() and file.read_text() == text:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._shown():
            stored = [store.read_table(unit.scratch) for unit in self.prepared(name, pixels)]
            with replacing(folder / f"{name}.png") as temporary:
                benchmarks.sheet(name, stored, self.data.own).save(temporary, "PNG")
        with replacing(file) as temporary:
            temporary.write_text(text)
        console.print(f"data: {file} and a contact sheet of each benchmark", highlight=False, soft_wrap=True)

    def diversity(self, benchmark: str) -> Unit:
        probe, augment = self.config.probe, self.config.data.augment.diversity

        def run(unit: Unit, progress: Report) -> Result:
            table = self.table(benchmark, probe.pixels, "train")
            net = self.probe(progress)
            # Subsets meet tasks of the same data sets, whose draw would otherwise outweigh what they differ in.
            purpose = "diversity/subset" if self.controlled else unit.name
            keys = jnp.stack([_key(self.config.seed, purpose, number) for number in range(probe.tasks)])
            # Where the estimator or the head draws, the first few are embedded once more: its noise floor.
            floor = min(probe.floor_tasks, probe.tasks) if fisher.is_stochastic(probe.estimator, probe.head) else 0

            def embed(tasks: int, before: int = 0) -> np.ndarray:
                return embed_benchmark(
                    net,
                    table,
                    tasks,
                    **self.task,
                    estimator=probe.estimator,
                    head=probe.head,
                    augment=augment,
                    key=keys[:tasks],
                    again=before > 0,
                    progress=lambda done: progress((before + done) / (probe.tasks + floor), f"task {done} of {tasks}"),
                )

            stacked = embed(probe.tasks)
            noise = noise_floor(stacked[:floor], embed(floor, probe.tasks), probe.distance) if floor else None
            value, low, high = diversity(stacked, probe.distance, probe.interval)
            row = {
                "benchmark": benchmark,
                "probe": probe.name,
                "diversity": value,
                "ci_low": low,
                "ci_high": high,
                "tasks": probe.tasks,
                "estimator": probe.estimator,
                "head": probe.head,
                "distance": probe.distance,
                "interval": probe.interval,
                "own": any(base in self.data.own for base in self._bases(benchmark)),
                **self._measured(),
                "noise_floor": noise,
                "complexity": complexity(stacked).value,
                "true_diversity": None if self.controlled else benchmarks.true_diversity(benchmark, self.data.own),
            }
            return row, {"embeddings": stacked}

        settings = {"probe": dict(probe), "task": self.task, "seed": self.config.seed, "augment": augment}
        settings |= self._cut()
        inputs = self._inputs(benchmark, probe.pixels)
        cost = probe.tasks * (0.25 if probe.name == "resnet10_narrow" else 8.0)
        return self.unit(f"diversity/{benchmark}/{probe.name}", settings, run, inputs, cost)

    def training(self, benchmark: str, method: str, seed: int) -> Unit:
        config, training = self.config, dict(self.config.training)
        mine = config[registry.entry(method).section]
        if steps := mine.get("train_inner_steps"):
            method = registry.with_inner_steps(method, steps)  # methods that differ in the test alone share it
        tasks = training.pop("validation_tasks")
        if not training["validate_every"]:
            training.pop("patience")
        settings = {**mine, **training, "learner": dict(config.learner), "task": self.task, "seed": [config.seed, seed]}
        augment = settings["augment"] = config.data.augment.training
        settings |= self._cut()
        if training["validate_every"]:
            settings["validation_tasks"] = tasks

        def run(unit: Unit, progress: Report) -> Result:
            table = self.table(benchmark, config.learner.pixels, "train")
            classes = len(table.classes)
            size = mine.get("batch_size") or mine.meta_batch
            mesh = make_mesh(size)
            learner = self.method(method, classes, mesh=mesh)

            def sample(key: jax.Array) -> Any:
                return learner.sample(key, table, size, **self.task, augment=augment)

            def validate(params: Any, model_state: Any) -> dict[str, float]:
                held_out = self.table(benchmark, config.learner.pixels, "val")
                found = self._tested(learner, params, model_state, held_out, tasks, "validate", benchmark)
                return {"accuracy": float(found.accuracy.mean()), "loss": float(found.loss.mean())}

            def note(step: int, metrics: dict[str, float]) -> None:
                loss, share, rate = metrics["loss"], metrics["accuracy"], metrics["steps_per_second"]
                word = f"step {step}/{mine.steps}  loss {loss:.3f}  accuracy {share:.3f}  {rate:.3g} steps/s"
                progress(step / mine.steps, word)

            found = train.train(
                learner,
                sample,
                # Not a function of the method: all of them start from the same draws.
                _key(config.seed, "train", benchmark, seed),
                train.TrainSettings(steps=mine.steps, learning_rate=mine.learning_rate, **training),
                unit.scratch,
                validate,
                {"unit": unit.name},
                mesh,
                note,
            )
            return {**found, "train_classes": classes, "train_images": len(table.images)}, {}

        name = f"train/{benchmark}/{method}/seed{seed}"
        inner = registry.entry(method).fields
        cost = mine.steps * (1 + inner.get("inner_steps", 0) * (1 if inner.get("first_order", True) else 2.5)) / 140
        return self.unit(name, settings, run, self._inputs(benchmark, config.learner.pixels), cost)

    def evaluation(self, benchmark: str, method: str, seed: int, test_set: str) -> Unit:
        config = self.config
        trained = self.training(benchmark, method, seed)
        where = benchmark if test_set == "own" else fixed_test_set(config)
        tasks = config.evaluation.tasks

        def run(unit: Unit, progress: Report) -> Result:
            table = self.table(where, config.learner.pixels, "test")
            facts = trained.result
            learner = self.method(method, facts["train_classes"])
            params, model_state = load_params(trained.scratch, learner)
            heard = lambda done: progress(done / tasks, "")
            result = self._tested(learner, params, model_state, table, tasks, "evaluate", where, heard)
            accuracy, accuracy_ci = evaluate.mean_interval(result.accuracy)
            loss, loss_ci = evaluate.mean_interval(result.loss)
            row = {
                "benchmark": benchmark,
                "method": method,
                "seed": seed,
                "test_set": test_set,
                "accuracy": accuracy,
                "accuracy_ci": accuracy_ci,
                "loss": loss,
                "loss_ci": loss_ci,
                "train_images": facts["train_images"],
                "train_classes": facts["train_classes"],
                "batch_norm": config.learner.batch_norm,
                "net": config.learner.net,
                "pixels": config.learner.pixels,
                "tasks": tasks,
            }
            return row, result._asdict()

        settings = {
            "tasks": tasks,
            "task": self.task,
            "test_set": where,
            "seed": config.seed,
            "batch_norm": config.learner.batch_norm,
            "dropout": config.evaluation.dropout,
        }
        inputs = (trained, *self.prepared(where, config.learner.pixels))
        name = f"evaluate/{benchmark}/{method}/seed{seed}/{test_set}"
        return self.unit(name, settings, run, inputs, tasks / 50)

    def _tested(self, learner, params, model_state, table, tasks, purpose, where, progress=lambda done: None):
        """A method on tasks of `table` that are no function of the method: every method meets the same ones."""
        sample = lambda key, number: sample_tasks(key, table, **self.task, tasks=number)
        key = _key(self.config.seed, purpose, where)
        return evaluate.evaluate(learner, params, model_state, sample, key, tasks, progress=progress)

    def _curves(self) -> list[Curve]:
        """How training went, of what is trained."""
        config = self.config
        trained = [
            (name, method, self.training(name, method, seed))
            for name, method, seed in product(self.names, config.methods, config.seeds)
        ]
        return [read_curve(name, method, unit.scratch / "metrics.jsonl") for name, method, unit in trained if unit.done]

    def correlation(self, units: Iterable[Unit]) -> Unit:
        """Diversity against performance, over whatever is done: a failed unit must not cost the others' result."""
        done = [unit for unit in units if unit.stage in ("diversity", "evaluate") and unit.done]

        def run(unit: Unit, progress: Report) -> Result:
            measured = [need for need in done if need.stage == "diversity"]
            tested = [need for need in done if need.stage == "evaluate"]
            seeds: dict[tuple[str, str, str], list[np.ndarray]] = {}
            for need in tested:
                which = tuple(need.result[key] for key in ("benchmark", "method", "test_set"))
                seeds.setdefault(which, []).append(need.arrays()["accuracy"])
            found = analyse(
                [need.result for need in measured],
                [need.result for need in tested],
                {need.result["benchmark"]: np.linalg.norm(need.arrays()["embeddings"], axis=1) for need in measured},
                # Of one test set, all seeds meet the same tasks.
                {which: np.mean(accuracies, 0) for which, accuracies in seeds.items()},
                {name: benchmarks.shares(self._source(name), self.data.own) for name in self.names},
                self.controlled,
            )
            return found, {}

        return self.unit("correlate", {"statistics": STATISTICS}, run, done)

    def report(self, correlated: Unit, failures: list[dict[str, str]]) -> Unit:
        folder, config = self.workdir / "report", self.config

        def run(unit: Unit, progress: Report) -> Result:
            found = correlated.result
            report.write_report(
                folder,
                found,
                config.to_dict(),
                {**provenance(), "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z")},
                failures,
                # As the user named it: the union of all data sets spelt out would fill a figure's title.
                config.evaluation.fixed_test_set,
                {name: self.workdir / "data" / f"{name}.png" for name in self._shown()},
                f"Diversity and performance: {self.workdir.resolve().name}",
                self._generated(),
            )
            write_curves(folder, self._curves())
            return {"folder": str(folder)}, {}

        return self.unit("report", {"failures": failures}, run, [correlated])

    def surveyed(self, units: Iterable[Unit]) -> survey.Survey:
        """Of a study that trains nothing, what was measured. InputError if a benchmark has not been."""
        measured = [needed(unit, "report") for unit in units if unit.stage == "diversity"]
        return survey.Survey(
            [{**self._measured(), **unit.result} for unit in measured],  # results of an older version say less
            {unit.result["benchmark"]: unit.arrays()["embeddings"] for unit in measured},
            {name: self._origin(name) for name in self.names},
        )

    def _origin(self, benchmark: str) -> survey.Source:
        """Where a benchmark that is measured comes from."""
        parts = [needed(unit, "report").result for unit in self.prepared(benchmark, self.config.probe.pixels)]
        cut = self.config.controlled if self.controlled else self.config.data.cut
        each = [cut.classes // len(parts) + (number < cut.classes % len(parts)) for number in range(len(parts))]
        classes = each if cut.classes else [part["train"]["classes"] for part in parts]
        images = [part["train"]["images"] for part in parts]
        if cut.images:
            images = [number * cut.images for number in classes]
        elif cut.classes:
            images = []  # as many as the classes drawn have
        paths = [self.data.own.get(base, "") for base in self._bases(benchmark)]
        lost = [name for part in parts for name in part["left_out"]]
        return survey.Source(tuple(filter(None, paths)), tuple(classes), sum(images) or None, tuple(lost))

    def survey(self, units: Iterable[Unit], found: survey.Survey) -> Unit:
        """The report of a study that trains nothing."""
        config, folder = self.config, self.workdir / "report"

        def run(unit: Unit, progress: Report) -> Result:
            made = {**provenance(), "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z")}
            sheets = {name: self.workdir / "data" / f"{name}.png" for name in self._shown()}
            survey.write_survey(folder, found, config.to_dict(), made, sheets)
            return {"folder": str(folder)}, {}

        return self.unit("report", {}, run, [unit for unit in units if unit.stage in ("prepare", "diversity")])

    def method(self, name: str, classes: int, **more: Any) -> Method:
        """A method for a train split of so many classes."""
        config, ways = self.config, self.task["ways"]
        how = config.learner
        net = make_network(how.net, ways, how.pixels, how.width, how.dropout, how.compute)
        settings = {"batch_norm": how.batch_norm, "test_dropout": config.evaluation.dropout, **more}
        return make_method(name, net, ways, classes, {**config[registry.entry(name).section], **settings})


@lru_cache(maxsize=1)
def _probe(name: str, weights: Path | None, seed: int):
    return load_probe(name, weights, seed)


@lru_cache(maxsize=2)
def _table(
    benchmark: str,
    folders: tuple[Path, ...],
    split: str,
    classes: tuple[int, ...] | int,
    images: int,
    seed: int,
    own: tuple[str, ...],
) -> ImageTable:
    """A benchmark's split on the device, of it `classes` (their rows, or how many to draw; 0: all) with `images` images
    each (0: all). own: the names of the user's data sets. The last two tables stay,
    since all methods of a benchmark run in a row."""
    table = benchmarks.join(benchmark, [store.read_table(folder) for folder in folders], split, own)
    if not classes and not images:
        return table
    if isinstance(classes, int):
        sets = np.bincount(table.dataset, minlength=len(table.rotates))
        even = [classes // len(sets) + (number < classes % len(sets)) for number in range(len(sets))]
        quotas = even if classes else sets.tolist()
        with in_flags(quotas="--config.data.cut.classes", images="--config.data.cut.images"):
            classes = tuple(draw_classes(benchmark, table, quotas, images, seed).tolist())
    return place(take(table, classes, images, seed))
