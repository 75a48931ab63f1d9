"""Damage to what a study left: it is named and made again, and the tables are those of before, byte for byte."""

import contextlib
import io
import json
import shutil

import made_up_units
import numpy as np
import pytest
from rich.console import Console
from test_study import tiny

from jaxdiv.errors import Damage
from jaxdiv.methods import checkpointing
from jaxdiv.study import config as door
from jaxdiv.study import last_stages, planner, runner, seal, worker
from jaxdiv.study.stages import evaluate
from jaxdiv.study.unit import Unit
from jaxdiv.study.verify import verify

SMALL = {"benchmarks": ("gauss-0.5",), "methods": ("pt",), "pt.steps": 4, "training.checkpoint_every": 2}
SMALL |= {"evaluation.test_sets": ("own",), "learner.pixels": 16, "probe.pixels": 16, "evaluation.tasks": 2}


@pytest.fixture(scope="module", autouse=True)
def drawn_embeddings():
    """Embeddings are drawn by their number: their computation is not what is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner.embed, "run", lambda spec, inputs, progress: embedded(spec.tasks))
        patch.setattr(planner, "_probe", lambda study, progress: None)
        patch.setattr(planner.embed, "Inputs", lambda *given: given)
        yield


def embedded(tasks, scale=1.0):
    draw = np.random.default_rng(0).uniform(1, 2, (tasks, 40)).astype(np.float32)
    return planner.embed.Result(scale * draw**2, draw[:0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a study of one benchmark that ran undisturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "w"
    assert run(workdir, planner.STAGES) == (0, "")
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of it, at times of its own."""
    return shutil.copytree(finished, tmp_path / "w")


def run(workdir, stages=planner.STAGES[:-1]):
    """The exit code, and the lines that name what is made again. All but the report, which takes seconds."""
    said = io.StringIO()
    code = runner.run(tiny(**SMALL), workdir, stages, Console(file=said, width=200))
    return code, "".join(line for line in said.getvalue().splitlines(keepends=True) if " is made again: " in line)


def units(workdir):
    plan = planner.plan(door.read(tiny(**SMALL)), workdir)
    return {unit.stage: unit for unit in plan.units}


def results(workdir):
    """What every unit says, and all statistics."""
    found = {unit.name: unit.content for unit in units(workdir).values()}
    return found | {"statistics": seal.read_record(next(workdir.glob("units/correlate/*/result.json")))["result"]}


def tables(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "report").glob("*.csv")}


def correlated(workdir):
    return last_stages.correlation(planner.plan(door.read(tiny(**SMALL)), workdir))


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def says(text):
    return lambda path: path.write_bytes(text)


FILES = {
    "prepare": ["result.json", "table/images.npy", "table/classes.json"],
    "embed": ["result.json", "arrays.npz"],
    "diversity": ["result.json"],
    "train": ["result.json", "checkpoints/4/run/metadata", "checkpoints/4/state/manifest.ocdbt"],
    "evaluate": ["result.json", "arrays.npz"],
}
KINDS = {"flipped": flip, "cut": cut, "empty": empty, "missing": missing, "a folder": folder}
KINDS |= {"null": says(b"null"), "a list": says(b"[]"), "no text": says(b"\xff")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stage", "file"), [(stage, file) for stage, files in FILES.items() for file in files])
def test_a_unit_whose_file_is_damaged_is_not_done_and_says_which_file(workdir, stage, file, kind):
    unit = units(workdir)[stage]
    assert unit.done and verify(unit) == []
    KINDS[kind](unit.folder / file)
    assert not unit.done
    told = "".join(unit.problems())
    assert file in told or (file, kind) == ("result.json", "missing")
    assert bool(verify(unit)) == bool(told)
    others = [each for each in units(workdir).values() if each.stage != stage]
    assert all(each.done for each in others)  # an input that is gone costs no result that was made from it


@pytest.mark.parametrize("stage", ["prepare", "embed", "evaluate"])
def test_what_is_damaged_is_made_again_and_nothing_else(finished, workdir, stage):
    before = {each.name: (each.folder / "result.json").stat().st_mtime_ns for each in units(workdir).values()}
    file = units(workdir)[stage].folder / FILES[stage][1]
    flip(file)
    code, said = run(workdir)
    assert code == 0 and said.count("\n") == 1
    assert f"{units(workdir)[stage].name} is made again: {FILES[stage][1]} has changed" in said
    after = {each.name: (each.folder / "result.json").stat().st_mtime_ns for each in units(workdir).values()}
    assert {name.split("/")[0] for name in after if after[name] != before[name]} == {stage}
    assert results(workdir) == results(finished)


def test_a_number_changed_in_a_result_is_found_though_it_is_valid_json(finished, workdir):
    file = units(workdir)["diversity"].folder / "result.json"
    record = json.loads(file.read_text())
    record["result"]["diversity"] += 0.01
    file.write_text(json.dumps(record))
    code, said = run(workdir)
    assert code == 0 and "diversity/gauss-0.5/resnet10_narrow is made again: result.json is damaged" in said
    assert results(workdir) == results(finished)


def test_when_an_input_says_something_else_what_was_computed_from_it_is_made_again(workdir):
    unit = units(workdir)["embed"]
    record = seal.read_record(unit.folder / "result.json")
    embeddings = unit.arrays["embeddings"][::-1] * 1.25
    np.savez(unit.folder / "arrays.npz", embeddings=embeddings, again=unit.arrays["again"])
    record |= {"content": "other", "files": seal.of_files(unit.folder, ["arrays.npz"])}
    (unit.folder / "result.json").write_text(json.dumps(seal.of_record(record)))
    assert unit.done and not units(workdir)["diversity"].done and units(workdir)["train"].done
    code, said = run(workdir)
    assert code == 0 and "embed/gauss-0.5/resnet10_narrow is no longer what it was made from" in said
    assert units(workdir)["diversity"].done


def test_a_stage_whose_input_is_made_again_to_another_content_follows_in_the_same_run(workdir, monkeypatch):
    flip(units(workdir)["embed"].folder / "arrays.npz")
    monkeypatch.setattr(planner.embed, "run", lambda spec, *_: embedded(spec.tasks, 1.25))
    assert run(workdir)[0] == 0
    assert all(unit.done for unit in units(workdir).values())
    contents = json.loads((units(workdir)["diversity"].folder / "result.json").read_text())["contents"]
    assert list(contents.values()) == [units(workdir)["embed"].content]


@pytest.mark.parametrize("kind", ["flipped", "empty", "missing"])
def test_a_damaged_last_checkpoint_is_put_aside_and_training_goes_on_from_the_one_before(finished, workdir, kind):
    unit = units(workdir)["train"]
    latest = unit.folder / "checkpoints" / "4"
    for path in latest.rglob("*"):
        if path.is_file() and (kind == "empty" or path.parent.name == "d"):
            KINDS[kind](path)
    with pytest.warns(Damage, match=r"checkpoint 4 is damaged .* training resumes from step 2"):
        assert run(workdir)[0] == 0
    assert (unit.folder / "damaged" / "4").is_dir() and unit.done
    assert unit.result["checksum"] == units(finished)["train"].result["checksum"]
    assert results(workdir) == results(finished)


def test_a_checkpoint_that_counts_as_whole_can_be_restored_whichever_of_its_files_is_cut(finished, tmp_path):
    """Orbax reads some files for a device's arrays alone."""
    unit = units(finished)["train"]
    how = (unit.spec.learner, unit.spec.settings, unit.spec.task.ways, unit.result["train_classes"])
    method, whole = evaluate.make("pt", *how), unit.folder / "checkpoints" / "4"
    found = {}
    for file in sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size):
        shutil.copytree(unit.folder / "checkpoints", tmp_path / "checkpoints", dirs_exist_ok=True)
        cut(tmp_path / "checkpoints" / "4" / file.relative_to(whole))
        found[file.parent.name, file.name] = reason = checkpointing.damage(tmp_path, 4)
        if not reason:
            checkpointing.load_params(tmp_path, method, 4)
    assert all(found[each] for each in [("run", "metadata"), ("state", "manifest.ocdbt"), ("state", "_METADATA")])


def test_the_last_checkpoint_gone_is_trained_again_and_never_replaced_by_an_older_one(finished, workdir):
    shutil.rmtree(units(workdir)["train"].folder / "checkpoints" / "4")
    code, said = run(workdir)
    assert code == 0 and "train/gauss-0.5/pt/seed0 is made again: checkpoints/4/" in said
    assert results(workdir) == results(finished)


@pytest.mark.parametrize("junk", ["7", "notes", "5.orbax-checkpoint-tmp-1"])
def test_junk_among_checkpoints_is_in_nobodys_way(finished, workdir, junk):
    unit = units(workdir)["train"]
    (unit.folder / "checkpoints" / junk).mkdir()
    (unit.folder / "result.json").unlink()
    with pytest.warns(Damage) if junk == "7" else contextlib.nullcontext():
        assert run(workdir)[0] == 0
    assert results(workdir) == results(finished)


@pytest.mark.parametrize("content", [b'{"step": 1, "lo', b"", b"\0" * 50, b"null\n[]\n", None])
def test_metrics_are_a_log_that_no_result_needs(finished, workdir, content):
    unit = units(workdir)["train"]
    (unit.folder / "metrics.jsonl").unlink()
    if content is not None:
        (unit.folder / "metrics.jsonl").write_bytes(content)
    (unit.folder / "result.json").unlink()
    assert run(workdir)[0] == 0
    assert results(workdir) == results(finished)


@pytest.mark.parametrize(
    ("file", "kind"),
    [("report/table1.csv", "cut"), ("report/figure1.png", "missing"), ("report/report.html", "flipped")],
)
def test_a_finished_report_is_drawn_again_when_a_file_of_it_is_gone_or_changed(finished, workdir, file, kind):
    KINDS[kind](workdir / file)
    unit = last_stages.reporting(planner.plan(door.read(tiny(**SMALL)), workdir), correlated(workdir))
    assert not unit.done and file.split("/")[1] in unit.problems()[0]


def test_a_report_that_is_drawn_again_has_the_bytes_of_before(finished, workdir):
    cut(workdir / "report" / "table1.csv")
    (workdir / "report" / "figure1.png").unlink()
    assert run(workdir, ("correlate", "report"))[0] == 0
    assert tables(workdir) == tables(finished) and (workdir / "report/figure1.png").stat().st_size


def test_a_contact_sheet_that_is_cut_is_drawn_again(finished, workdir):
    cut(workdir / "data" / "gauss-0.5.png")
    assert run(workdir)[0] == 0
    assert (workdir / "data/gauss-0.5.png").read_bytes() == (finished / "data/gauss-0.5.png").read_bytes()


@pytest.mark.parametrize("kind", ["no text", "null", "a list", "empty"])
def test_the_record_of_the_last_configuration_is_only_written(workdir, kind):
    before = (workdir / "study.json").read_bytes()
    KINDS[kind](workdir / "study.json")
    assert run(workdir) == (0, "")
    assert (workdir / "study.json").read_bytes() == before


def test_bytes_that_change_without_a_trace_are_found_by_verify(workdir, monkeypatch):
    unit = units(workdir)["prepare"]
    images = unit.folder / "table" / "images.npy"
    flip(images)
    monkeypatch.setattr(seal, "_state", lambda file: [file.stat().st_size, 0, 0])
    record = seal.read_record(unit.folder / "result.json")
    files = {name: [size, 0, 0, known] for name, (size, *_, known) in record["files"].items()}
    assert seal.broken(unit.folder, files) == []  # as if size and times were those of before
    assert seal.broken(unit.folder, files, thorough=True) == ["table/images.npy has changed"]


def test_a_copy_with_other_times_is_read_once(workdir, monkeypatch):
    unit = units(workdir)["prepare"]
    monkeypatch.setattr(seal.fingerprint, "_SETTLED_NS", -(10**12))  # as if it were made long ago
    assert unit.done
    monkeypatch.setattr(seal.fingerprint, "_hashed", lambda path: pytest.fail(f"{path} was read again"))
    assert unit.done


def test_an_input_that_is_deleted_while_a_unit_runs_is_still_what_it_was_made_from(tmp_path):
    need = made_up_units.unit(tmp_path, "prepare/a")
    silent = lambda share, note: None
    worker.perform(need, silent)

    def work(unit, progress):
        shutil.rmtree(need.folder)
        return made_up_units.Result("b")

    each = Unit("embed/a", made_up_units.Spec(), work, tmp_path / "units", (need,))
    worker.perform(each, silent)
    assert each.done
    worker.perform(need, silent)
    assert each.done and all(json.loads((each.folder / "result.json").read_text())["contents"].values())
