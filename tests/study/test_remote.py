"""A workdir in an object store: what is whole there comes to any machine, what is not never counts, one driver at a
time, and nothing of the mirror is lost."""

import dataclasses
import io
import json
import os
import platform
import shutil
import time
from types import SimpleNamespace

import fsspec
import pytest
from made_up_units import Result, unit
from rich.console import Console
from test_damage import SMALL, drawn_embeddings
from test_study import tiny

from jaxdiv import cli
from jaxdiv.errors import InputError
from jaxdiv.study import lease, object_store, planner, remote, runner, seal, worker

__all__ = ["drawn_embeddings"]  # a fixture of every test here
ME = "embed/a"


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    """A workdir's address, where nothing is yet."""
    store = fsspec.filesystem("memory")
    if request.param == "memory":
        yield "memory://bucket/study"
        store.store.clear()
    else:
        yield f"file://{tmp_path}/bucket/study"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """`machine(name)`: from now on this is the machine of that name, whose cache is its own."""
    monkeypatch.setattr(object_store, "SETTLES", 0.0)
    be = lambda name: monkeypatch.setenv("JAXDIV_CACHE", str(tmp_path / name))
    be("a")
    return be


@pytest.fixture
def quick(monkeypatch):
    """Signs of life ten times a second, and death after six tenths of one."""
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "SILENCE", 0.6)
    sleep = time.sleep
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))


def objects(address):
    """Every object's bytes, by its name."""
    fs, root = fsspec.url_to_fs(address)
    return {name[len(root) + 1 :]: fs.cat_file(name) for name in fs.find(root)}


def change(address, name, data):
    fs, root = fsspec.url_to_fs(address)
    fs.rm_file(f"{root}/{name}") if data is None else fs.pipe_file(f"{root}/{name}", data)


def work(address, what="", made=None, do=lambda folder: None):
    """Do the unit ME in the workdir, as a driver; its folder, and what was said."""
    console = Console(file=io.StringIO(), width=400)
    with remote.mirrored(address, console) as folder:
        each = unit(folder, ME, what=what, made=made)
        worker.perform(each, lambda share, note: None)
        do(folder)
    return each.folder, console.file.getvalue()


def seen(address):
    """Whether a new machine finds ME done, and what it is told."""
    console = Console(file=io.StringIO(), width=400)
    with remote.mirrored(address, console, leads=False) as folder:
        return unit(folder, ME).done, console.file.getvalue()


def test_a_study_that_ran_on_one_machine_is_done_on_another_and_its_tables_are_equal_byte_for_byte(machine, address):
    if address.startswith("file"):
        pytest.skip("seconds of work, and the rest of this file has both")

    def run():
        console = Console(file=io.StringIO(), width=200)
        with remote.mirrored(address, console) as workdir:
            assert runner.run(tiny(**SMALL | {"methods": ()}), workdir, planner.STAGES, console) == 0
        return {file.name: file.read_bytes() for file in (workdir / "report").iterdir()}, console.file.getvalue()

    first, said = run()
    assert " 0 to run" not in said and "has all of it" in said
    there = objects(address)
    assert {"study.json", "data/manifest.json", "report/table1.csv"} <= there.keys()
    assert {name.split("/")[0] for name in there} == {"units", "report", "data", "study.json"}
    assert not any(part in name for name in there for part in (".lock", "/."))

    machine("b")
    second, said = run()
    assert " 0 to run" in said and "gauss" in said
    assert second == first and objects(address) == there


def test_without_its_mark_a_unit_is_not_done_wherever_a_push_was_killed(machine, address, monkeypatch):
    class Killed(BaseException):
        pass

    def dies_before(count):
        left = iter(range(count))

        def path(store, name):
            if not name.startswith("running") and next(left, None) is None:
                raise Killed
            return usual(store, name)

        monkeypatch.setattr(object_store.Store, "_path", path)

    usual, made, found = object_store.Store._path, [], []
    for count in range(20):
        machine("a")
        dies_before(count)
        try:
            folder, _ = work(address, made=made)
        except Killed:
            folder = None
        monkeypatch.setattr(object_store.Store, "_path", usual)
        machine(f"new {count}")
        done, said = seen(address)
        found.append(done)
        assert "damaged" not in said and "not whole" not in said
        if folder:
            break
    assert found[0] is False and found[-1] is True and found == sorted(found)
    assert made == [ME]  # the mirror kept it all the time
    assert objects(address)[f"units/{ME}/{folder.name}/result.json"] == (folder / "result.json").read_bytes()


def test_a_second_driver_is_refused_in_one_line_and_readers_are_not(machine, address):
    with remote.mirrored(address, Console(quiet=True)):
        machine("b")
        with pytest.raises(InputError) as error, remote.mirrored(address, Console(quiet=True)):
            pass
        assert f"(process {os.getpid()}) since {time.strftime('%Y')}" in str(error.value)
        assert address in str(error.value) and "\n" not in str(error.value)
        finds, said = seen(address)
        assert finds is False and f"driven by {platform.node()} (process {os.getpid()})" in said
        console = Console(file=io.StringIO(), width=400)
        with remote.mirrored(address, console, leads=None) as folder:  # --stages=report
            worker.perform(unit(folder, ME), lambda share, note: None)
        assert "nothing is pushed" in console.file.getvalue() and [*objects(address)] == ["running/driver.json"]
    assert "running/driver.json" not in objects(address)
    work(address)


def test_another_machines_driver_is_taken_over_when_it_is_silent_and_then_pushes_nothing(machine, address, quick):
    ends = pytest.raises(InputError, match="another one took the study over")
    with ends, remote.mirrored(address, Console(quiet=True)) as mine:
        there = json.loads(objects(address)["running/driver.json"])
        change(address, "running/driver.json", json.dumps({**there, "machine": "elsewhere", "token": "x"}).encode())
        machine("b")
        work(address, "theirs")  # waits until it counts as dead
        worker.perform(unit(mine, ME, what="mine"), lambda share, note: None)
    assert sum(name.endswith("result.json") for name in objects(address)) == 1
    assert unit(mine, ME, what="mine").done


def test_of_two_that_take_a_silent_lease_over_at_once_the_later_has_it(address, quick, monkeypatch):
    place = object_store.LeaseObject(object_store.Store(address), "running/driver.json")
    usual = time.sleep
    other = lease.Holder("the study", "node7", "elsewhere", 1, "", 0.0, "theirs")

    def overwritten(seconds):
        usual(0.01)
        place.write(json.dumps(dataclasses.asdict(other)), new=False)

    monkeypatch.setattr(object_store, "SETTLES", 0.3)
    monkeypatch.setattr(lease.time, "sleep", overwritten)
    assert lease._try(place, "the study", None) == other
    with pytest.raises(FileExistsError):
        place.write("{}", new=True)


@pytest.mark.parametrize("name", ["arrays.npz", "result.json"])
def test_a_damaged_object_is_said_in_a_line_and_made_again_and_the_whole_mirror_is_kept(machine, address, name):
    import numpy as np

    @dataclasses.dataclass(frozen=True)
    class Found:
        array: np.ndarray

    def done(folder, made):
        each = dataclasses.replace(
            unit(folder, ME), work=lambda unit, progress: made.append(1) or Found(np.arange(9.0))
        )
        worker.perform(each, lambda share, note: None)
        return each

    console, made = Console(file=io.StringIO(), width=400), []
    with remote.mirrored(address, console) as folder:
        first = done(folder, made)
    there = objects(address)
    full = f"units/{ME}/{first.folder.name}/{name}"
    for count, data in enumerate((there[full][:-3], there[full][:-3] + b"abc", None)):
        change(address, full, data)
        machine(f"new {count}")
        finds, said = seen(address)
        gone = data is None and name == "result.json"  # then the unit is not done, which is no damage
        assert finds is False and sum(ME in line for line in said.splitlines()) == (0 if gone else 1)
        machine("a")
        with remote.mirrored(address, console) as folder:
            assert done(folder, made).done and len(made) == 1
        if (
            count != 1 or name == "result.json"
        ):  # its size tells: the mirror's is pushed again, without reading the rest
            assert objects(address) == there


def test_of_two_results_of_a_unit_the_later_counts(machine, address):
    def says(what):
        def do(folder):
            each = dataclasses.replace(unit(folder, ME), work=lambda unit, progress: Result(what))
            worker.perform(each, lambda share, note: None, again=True)

        return do

    def found(folder):
        there = objects(address)[f"units/{ME}/{folder.name}/result.json"]
        assert (folder / "result.json").read_bytes() == there
        return json.loads(there)["result"]["found"]

    folder, _ = work(address, do=says("first"))
    machine("b")
    assert found(work(address, do=says("second"))[0]) == "second"
    machine("a")
    work(address)
    assert found(folder) == "second"
    says("third")(folder.parents[3])  # and it could not be pushed: the store's is older
    work(address)
    assert found(folder) == "third"


def test_checkpoints_of_an_unfinished_unit_come_to_another_machine_and_go_when_it_is_done(machine, address):
    def train(folder, step):
        each = unit(folder, ME)
        each.begin()
        shutil.rmtree(each.folder / "checkpoints", ignore_errors=True)
        for name in (f"{step}/state/x", f"{step}/_METADATA", f"{step + 1}.orbax-checkpoint-tmp-1/state/x"):
            (file := each.folder / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{step} {name}")
        raise SystemExit(143)  # as SIGTERM ends a run

    def trained(step):
        with pytest.raises(SystemExit), remote.mirrored(address, Console(quiet=True)) as folder:
            train(folder, step)

    trained(10)
    machine("b")
    with remote.mirrored(address, Console(quiet=True), leads=False) as folder:
        here = unit(folder, ME).folder / "checkpoints"
        assert {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()} == {
            "10/state/x",
            "10/_METADATA",
        }
    trained(20)
    assert {int(name.split("/")[5]) for name in objects(address) if "checkpoints" in name} == {20}
    machine("a")  # its own checkpoint is older
    with remote.mirrored(address, Console(quiet=True), leads=False) as folder:
        assert (unit(folder, ME).folder / "checkpoints/20/state/x").read_text() == "20 20/state/x"
    work(address)
    assert {name.split("/")[-1] for name in objects(address)} == {"result.json", "settings.json"}


def test_a_store_that_cannot_be_reached_ends_in_a_line_and_the_mirror_is_pushed_later(machine, address, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Could not connect\nto the endpoint")  # as botocore's errors, which are no OSErrors

    made = []
    with monkeypatch.context() as patch, pytest.raises(InputError) as error:
        work(address, made=made, do=lambda folder: patch.setattr(object_store.Store, "_path", fails))
    line = "Could not connect to the endpoint"
    assert line in str(error.value) and "pushes it" in str(error.value) and "\n" not in str(error.value)
    change(address, "running/driver.json", None)  # which it could not give back
    with monkeypatch.context() as patch, pytest.raises(InputError, match=line):
        patch.setattr(object_store.Store, "_path", fails)
        work(address)
    work(address, made=made)
    machine("b")
    assert seen(address)[0] and made == [ME]


def test_results_and_checkpoints_are_pushed_while_the_study_runs(machine, address, monkeypatch):
    monkeypatch.setattr(remote, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(remote, "CHECKPOINTS_EVERY", 0.0)

    def is_there(folder):
        other = unit(folder, "train/b")
        other.begin()
        (other.folder / "checkpoints/5").mkdir(parents=True)
        (other.folder / "checkpoints/5/x").write_text("5")
        marks, until = set(), time.monotonic() + 5
        while time.monotonic() < until and marks != {"result.json", "unfinished.json"}:
            time.sleep(0.02)
            marks = {name.split("/")[-1] for name in objects(address)} & {"result.json", "unfinished.json"}
        assert marks == {"result.json", "unfinished.json"}

    work(address, do=is_there)


def test_a_driver_that_was_taken_over_ends_as_by_sigterm(machine, address, quick, monkeypatch):
    monkeypatch.setattr(remote, "LOOK_EVERY", 0.02)
    console = Console(file=io.StringIO(), width=400)
    with pytest.raises(SystemExit) as ended, remote.mirrored(address, console) as folder:
        there = json.loads(objects(address)["running/driver.json"])
        change(address, "running/driver.json", json.dumps({**there, "token": "x"}).encode())
        worker.perform(unit(folder, ME), lambda share, note: None)
        for _ in range(500):
            time.sleep(0.01)
    assert ended.value.code == 143 and "another one took the study over" in console.file.getvalue()


def test_a_push_that_was_cut_off_takes_back_the_old_mark_before_it_overwrites_a_file(tmp_path, unchecked):
    """Killed between the two, the store would have a mark that speaks of files which it no longer has."""
    done, known = [], remote._Known({}, {"train/a": {"arrays.npz": "old"}})
    (tmp_path / "running").mkdir()
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "arrays.npz").write_bytes(b"new")
    data = json.dumps(seal.of_record({"files": seal.of_files(tmp_path / "train" / "a", ["arrays.npz"])})).encode()

    class Store:
        def remove(self, names):
            done.append(("remove", *names))
            if len(done) == 1:
                raise lease.Unreachable("the network is gone")

        def put(self, files):
            done.append(("put", *files))

        def write(self, name, data):
            done.append(("write", name))

        def sizes(self, unit):
            return {}

    pushing = remote._Pushing(Store(), tmp_path, known, SimpleNamespace(lost=False), print)
    with pytest.raises(lease.Unreachable):
        pushing._send("train/a", "result.json", data)
    pushing._send("train/a", "result.json", data)
    marks = ("remove", "train/a/unfinished.json", "train/a/result.json")
    assert done[:4] == [marks, marks, ("put", "train/a/arrays.npz"), ("write", "train/a/result.json")]


def test_names_that_lead_out_of_the_workdir_are_not_followed():
    assert [remote._inside(name) for name in ("units/a", "a/../../b", "/etc/passwd")] == [True, False, False]
    sealed = lambda name: json.dumps(seal.of_record({"files": {name: [1, 0, 0, ""]}})).encode()
    assert remote._files(sealed("../x")) is None and remote._files(sealed("x")) is not None


@pytest.mark.parametrize(
    "address, words",
    [("nosuch://bucket/study", "Protocol not known"), ("s3://bucket/study", "pip install 'jaxdiv[s3]'")],
)
def test_an_address_that_cannot_be_used_is_one_line(address, words, monkeypatch):
    if address.startswith("s3"):
        missing = lambda *_, **__: (_ for _ in ()).throw(ImportError("Install s3fs to access S3"))
        monkeypatch.setattr(object_store, "url_to_fs", missing)
    with pytest.raises(InputError) as error, remote.mirrored(address, Console(quiet=True)):
        pass
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("flag, value", [("coordinator", "auto"), ("unit", "train/a/1"), ("launcher", "commands")])
def test_processes_that_would_each_have_a_mirror_are_refused(flag, value, monkeypatch):
    given = {"coordinator": None, "unit": None, "launcher": "local", flag: value}
    monkeypatch.setattr(cli.flags, "FLAGS", SimpleNamespace(**given))
    with pytest.raises(InputError, match=f"--{flag}.* needs a workdir that all processes see"):
        cli._act_remotely(tiny(), "gs://bucket/study", Console(quiet=True))
