"""Units that are handed out: in their order, again after a death, and not while another process has them."""

import dataclasses
import io
import multiprocessing
import os
import shlex
import signal
import sys
import threading
from functools import partial
from types import SimpleNamespace

import jax
import pytest
from made_up_units import Dying, unit
from rich.console import Console
from test_study import tiny

from jaxdiv import cli
from jaxdiv.errors import InputError
from jaxdiv.methods.metrics import Diverged
from jaxdiv.study import config as door
from jaxdiv.study import driver, lease, planner, runner, worker
from jaxdiv.study.launchers import commands, devices, launcher, local
from jaxdiv.study.launchers.local import Worker

CONFIG = tiny()


def run(tmp_path, launcher, *units, held=None):
    """What failed, and what was said."""
    console = Console(file=io.StringIO(), width=200)
    plan = planner.Plan(door.read(CONFIG), tmp_path, {}, {}, {}, None, None, {}, {}, {}, {})
    failures = driver.Work(plan, list(units), launcher, CONFIG, console, held).done()
    return {each["unit"]: each["reason"] for each in failures}, console.file.getvalue()


@pytest.fixture
def chain(tmp_path):
    """Two benchmarks' units: train, and evaluate, which needs it."""
    trained = [unit(tmp_path, f"train/{name}") for name in "ab"]
    return [*trained, *(unit(tmp_path, f"evaluate/{each.name[-1]}", each) for each in trained)]


def test_a_unit_is_handed_out_once_its_inputs_are_done_and_not_more_than_there_is_room_for(tmp_path, chain):
    engine = Dying()
    failures, said = run(tmp_path, engine, *chain)
    assert not failures and all(each.done for each in chain) and engine.closed
    assert engine.most == 2 and engine.order == ["train/a", "train/b", "evaluate/a", "evaluate/b"]
    assert said.count(": done") == 4


def test_a_unit_whose_process_died_is_tried_again_but_not_for_ever(tmp_path, chain):
    engine = Dying(retries=2, **{"train/a": 2, "train/b": 3})
    failures, said = run(tmp_path, engine, *chain)
    assert failures == {"train/b": "its process ended by SIGKILL", "evaluate/b": "train/b failed"}
    assert engine.order.count("train/a") == engine.order.count("train/b") == 3
    assert "[3/4] evaluate/b: failed: train/b failed" in said
    assert worker.failure(chain[1]) == failures["train/b"]  # for --dry_run and a later report


def test_a_unit_whose_process_died_when_it_was_done_has_not_failed(tmp_path, chain):
    class Late(Dying):
        def submit(self, units):
            for each, _ in units:
                worker.perform(each, lambda share, note: None)
            return super().submit(units)

    failures, said = run(tmp_path, Late(retries=0, **{"train/a": 1}), *chain)
    assert not failures and said.count(": done") == 4


@pytest.mark.parametrize("engine", [None, Dying()], ids=["here", "elsewhere"])
def test_a_driver_whose_study_another_took_over_hands_out_nothing_more(tmp_path, chain, engine):
    file = tmp_path / "running" / "driver.json"
    with lease.take(file, "the study") as mine:
        lease._File(file).write(lease._text(dataclasses.replace(lease.holder(file), token="another")), new=False)
        mine._beat()
        with pytest.raises(InputError, match="the study: this process was silent for more than 120 s, and another one"):
            run(tmp_path, engine, *chain, held=mine)
    assert not any(each.done for each in chain)


def test_what_the_first_of_several_hosts_does_alone_waits_for_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(worker.jax, "process_count", lambda: 2)
    monkeypatch.setattr(worker, "all_here", lambda where: pytest.fail(f"waits at {where!r}"))
    each = unit(tmp_path, "correlate")
    assert worker.perform(each, lambda share, note: None, together=False) is None and each.done


@pytest.mark.parametrize("one, platforms", [("train/a/1", []), (None, ["cpu"])])
def test_a_single_unit_is_computed_on_the_devices_even_where_the_study_has_a_launcher(monkeypatch, one, platforms):
    """A unit of a GPU's study would else be the CPU's, without a word."""
    given = {"launcher": "slurm", "workers": 0, "devices_per_unit": 0, "unit": one, "config": CONFIG, "workdir": "w"}
    monkeypatch.setattr(cli.flags, "FLAGS", SimpleNamespace(**given, coordinator=None))
    monkeypatch.setattr(worker, "set_up_process", lambda: None)
    monkeypatch.setattr(cli, "_act", lambda *given: 0)
    set_to = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: set_to.append(value))
    assert cli._run([], ["jaxdiv"]) == 0 and set_to == platforms


def test_hosts_that_run_each_unit_together_take_no_launcher(monkeypatch, capsys):
    given = {"launcher": "local", "workers": 2, "devices_per_unit": 0, "unit": None, "config": CONFIG}
    monkeypatch.setattr(cli.flags, "FLAGS", SimpleNamespace(**given, coordinator="auto"))
    monkeypatch.setattr(worker, "set_up_process", lambda: None)
    assert cli._run([], ["jaxdiv"]) == 1
    assert "--coordinator: its hosts run each unit together: no --launcher, --workers" in capsys.readouterr().err


def test_a_worker_whose_driver_died_while_it_worked_ends_without_a_traceback(monkeypatch):
    """A chaos of 12 studies met this once: the driver was killed just before its worker told of a finished unit."""
    ours, theirs = multiprocessing.Pipe()
    for name in ("_follow_parent", "set_up_process"):
        monkeypatch.setattr(local, name, lambda: None)
    monkeypatch.setattr(local.signal, "signal", lambda *handler: None)
    done = []

    def die(job):
        ours.close()
        done.append(job)
        return worker.Outcome()

    monkeypatch.setattr(local, "run_job", die)
    ours.send("a unit")
    local.serve(theirs)
    assert done == ["a unit"]


def test_deaths_count_only_since_the_unit_last_got_further(tmp_path, chain, monkeypatch):
    steps = iter([10, 20, 30, 30, 30])
    monkeypatch.setattr(driver, "latest_step", lambda folder: next(steps))
    failures, _ = run(tmp_path, Dying(retries=2, **{"train/a": 4}), chain[0])
    assert not failures


def test_a_mistake_in_one_unit_costs_only_what_needs_it_and_is_remembered(tmp_path):
    good, nan = unit(tmp_path, "train/a"), unit(tmp_path, "train/b", fails=Diverged("the loss is nan at step 3"))
    wrong = unit(tmp_path, "train/c", fails=InputError("too few classes"))
    failures, _ = run(tmp_path, Dying(), good, nan, wrong, unit(tmp_path, "evaluate/b", nan))
    assert good.done and failures == {
        "train/b": "the loss is nan at step 3",
        "train/c": "too few classes",
        "evaluate/b": "train/b failed",
    }
    assert worker.failure(nan) == "the loss is nan at step 3" and worker.failure(good) is None
    mended = unit(tmp_path, "train/c")  # of the same digest
    assert worker.failure(mended) == "too few classes"
    worker.perform(mended, lambda share, note: None)
    assert worker.failure(mended) is None


def test_what_another_process_works_at_is_not_handed_out_until_it_is_over(tmp_path, chain, monkeypatch):
    theirs = lease.take(worker.lease_file(chain[0]), "train/a")
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 5:  # the other one finishes it
            chain[0].begin()
            chain[0].execute(lambda share, note: None)
            theirs.release()

    monkeypatch.setattr(driver.time, "sleep", sleep)
    engine = Dying()
    failures, _ = run(tmp_path, engine, *chain)
    assert not failures and "train/a" not in engine.order and engine.order[-2:] == ["evaluate/b", "evaluate/a"]


def test_a_result_that_never_comes_into_sight_is_a_failure_that_says_what_to_look_at(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_LATE", 0.5)
    monkeypatch.setattr(worker, "perform", lambda unit, progress: None)  # as on a disk of the worker's own
    failures, _ = run(tmp_path, Dying(), unit(tmp_path, "train/a"))
    assert "is --workdir on a disk that all workers share?" in failures["train/a"]


def test_two_workers_on_one_unit_make_it_once(tmp_path):
    made = []
    both = [unit(tmp_path, "train/a", made=made) for _ in range(2)]
    start = threading.Barrier(2)

    def work(each):
        start.wait()
        worker.perform(each, lambda share, note: None)

    threads = [threading.Thread(target=work, args=(each,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["train/a"] and not list((tmp_path / "running").glob("*.json"))


def test_commands_are_a_script_of_every_unit_each_after_its_inputs(tmp_path):
    plan = planner.plan(door.read(tiny()), tmp_path / "w")
    command = ["python", "-m", "jaxdiv", "--config.benchmarks=('gauss-0.1',)", "--workdir=my study"]
    lines = list(commands.script(plan.units, command, tmp_path, ["prepare", "report"]))
    assert lines[0] == f"cd {tmp_path}" and lines[-1].endswith("--stages=prepare,report")
    told = [shlex.split(line)[-1].removeprefix("--unit=") for line in lines if "--unit=" in line]
    assert shlex.split(lines[2])[:-1] == command
    assert sorted(told) == sorted(worker.unit_id(each) for each in plan.units)
    step_of, step = {}, 0
    for line in lines:
        step += line.startswith("# step")
        if "--unit=" in line:
            step_of[shlex.split(line)[-1].removeprefix("--unit=").rpartition("/")[0]] = step
    assert all(step_of[need.name] < step_of[each.name] for each in plan.units for need in each.inputs)
    assert lines[1] == "# step 1 of 4: 3 units, at the same time or in any order"


def test_another_process_plans_the_same_units_from_a_job(tmp_path):
    given = tiny(**{"data.split.fractions": (0.5, 0.25, 0.25)})
    plan = planner.plan(door.read(given), tmp_path)
    theirs = worker._plan(worker.job(given, tmp_path, plan.units[0]).config, str(tmp_path))
    assert [worker.unit_id(each) for each in theirs.units] == [worker.unit_id(each) for each in plan.units]


def test_a_unit_of_other_settings_or_of_no_name_is_refused_in_a_line(tmp_path):
    plan = planner.plan(door.read(tiny()), tmp_path)
    unit_ = plan.units[0]
    assert worker.find(plan, worker.unit_id(unit_)) is unit_
    with pytest.raises(InputError, match=f"the unit is {worker.unit_id(unit_)}: give all workers the command line"):
        worker.find(plan, f"{unit_.name}/0123456789ab")
    with pytest.raises(InputError, match=r"unknown unit 'train/gauss-0.1/pd/seed0': did you mean 'train/gauss-0.1/pt"):
        worker.find(plan, "train/gauss-0.1/pd/seed0/0123456789ab")


@pytest.mark.parametrize(
    ("platform", "count", "asked", "expected"),
    [
        ("gpu", 4, (0, 2), [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]),
        ("gpu", 4, (1, 1), [{"CUDA_VISIBLE_DEVICES": "0"}]),
        (
            "tpu",
            4,
            (0, 2),
            [
                {"TPU_VISIBLE_CHIPS": chips, "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,2,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
                for chips in ("0,1", "2,3")
            ],
        ),
        ("cpu", 4, (0, 2), [{"XLA_FLAGS": "--a --xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}] * 2),
    ],
)
def test_each_worker_sees_its_own_devices(monkeypatch, platform, count, asked, expected):
    monkeypatch.setattr(devices, "_look", lambda: (platform, count))
    monkeypatch.setenv("XLA_FLAGS", "--a --xla_force_host_platform_device_count=4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.environments(*asked) == expected


def test_devices_that_a_user_chose_are_the_ones_that_are_shared_out(monkeypatch):
    monkeypatch.setattr(devices, "_look", lambda: ("gpu", 2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in devices.environments(0, 1)] == ["5", "7"]
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert devices.environments(3, 0) == [{"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}] * 3


def test_more_workers_than_devices_and_wrong_numbers_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_look", lambda: ("gpu", 4))
    study = door.read(tiny())
    for workers, each, line in (
        (3, 2, "--workers=3 with --devices_per_unit=2: this machine has 4 gpu devices"),
        (0, 5, "this machine has 4 gpu devices"),
        (-1, 0, "`workers` is -1"),
        (0, -1, "`devices_per_unit` is -1"),
    ):
        with pytest.raises(InputError, match=line):
            launcher("local", tmp_path, workers, each, study)
    with pytest.raises(InputError, match="unknown launcher 'slum': did you mean 'slurm'"):
        launcher("slum", tmp_path, 0, 0, study)
    assert launcher("local", tmp_path, 0, 0, study) is None


def test_an_engine_that_is_missing_and_a_machine_without_slurm_are_said_in_a_line(monkeypatch, tmp_path):
    study = door.read(tiny())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"--launcher=slurm: .*srun.*login node"):
        launcher("slurm", tmp_path, 0, 0, study)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--launcher=ray needs ray: pip install 'jaxdiv\[ray\]'"):
        launcher("ray", tmp_path, 0, 0, study)


def test_slurm_is_asked_for_what_the_stage_needs(tmp_path):
    fields = {"launch.cluster": "local", "launch.partition": "gpu", "launch.minutes": 30, "launch.train.minutes": 1440}
    fields |= {"launch.prepare.partition": "cpu", "launch.account": "lab", "launch.setup": ("module load cuda",)}
    slurm = launcher("slurm", tmp_path, 0, 2, door.read(tiny(**fields)))
    train, prepared = slurm._parameters("train"), slurm._parameters("prepare")
    assert (train["timeout_min"], prepared["timeout_min"]) == (1440, 30)
    assert (train["slurm_partition"], prepared["slurm_partition"]) == ("gpu", "cpu")
    assert (train["gpus_per_node"], prepared["gpus_per_node"]) == (2, 0)  # --devices_per_unit=2
    assert train["slurm_account"] == "lab" and "slurm_qos" not in train and train["slurm_setup"] == ["module load cuda"]
    slurm._executor.update_parameters(**train)  # submitit knows all of them


def test_what_a_cluster_is_asked_for_changes_no_result(tmp_path):
    ids = [
        [worker.unit_id(each) for each in planner.plan(door.read(tiny(**fields)), tmp_path).units]
        for fields in ({}, {"launch.gpus": 8, "launch.train.minutes": 5, "launch.retries": 9})
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"launch.train.minutes": 0}, "--config.launch.train.minutes is 0: it must be at least 1"),
        ({"launch.cluster": "pbs"}, "unknown cluster 'pbs': valid: local, slurm"),
        ({"launch.retries": -1}, "--config.launch.retries is -1"),
    ],
)
def test_a_wrong_number_for_a_cluster_names_its_flag(fields, line):
    with pytest.raises(InputError, match=line):
        door.read(tiny(**fields))


def test_units_by_pattern_bring_what_they_need_and_a_pattern_of_nothing_names_the_nearest(tmp_path):
    given = tmp_path, planner.STAGES, Console(quiet=True)
    with pytest.raises(InputError, match=r"no unit of these stages is named like --units=train/gaus-0.1/pt/seed0: did"):
        runner.dry_run(CONFIG, *given, units=["train/gaus-0.1/pt/seed0"])
    console = Console(file=io.StringIO(), width=300)
    runner.dry_run(CONFIG, tmp_path, planner.STAGES, console, units=["evaluate/gauss-0.1/pt/*/own"])
    names = [line.split()[1] for line in console.file.getvalue().splitlines()[:-1]]
    ours = ["prepare/gauss-0.1/16px", "train/gauss-0.1/pt/seed0", "evaluate/gauss-0.1/pt/seed0/own"]
    assert [line.split()[0] for line in console.file.getvalue().splitlines()[:-1]] == ["run", "wait", "wait"]
    assert [name for name in ours if name in console.file.getvalue()] == ours and len(names) == 3


def test_two_workers_do_what_one_process_does_and_a_killed_one_is_replaced(tmp_path, monkeypatch):
    given = tiny(benchmarks=("gauss-0.1", "gauss-0.5"), methods=())
    assert runner.run(given, tmp_path / "one", ("prepare",), Console(quiet=True)) == 0
    start, killed = Worker.start, []

    def start_and_kill_the_first(self, job):
        start(self, job)
        if not killed:
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(Worker, "start", start_and_kill_the_first)
    two = partial(launcher, "local", tmp_path / "two", 2, 0)
    assert runner.run(given, tmp_path / "two", ("prepare",), Console(quiet=True), launch=two) == 0
    results = [
        [each.result for each in planner.plan(door.read(given), tmp_path / name).prepared.values()]
        for name in ("one", "two")
    ]
    assert killed and results[0] == results[1] and not list((tmp_path / "two/running").glob("*.json"))


def test_verify_reads_every_result_and_names_what_no_longer_matches(tmp_path):
    given = tiny(benchmarks=("gauss-0.1", "gauss-0.5"), methods=())
    assert runner.run(given, tmp_path, ("prepare",), Console(quiet=True)) == 0
    console = Console(file=io.StringIO(), width=200)
    assert runner.verify_results(given, tmp_path, [], console) == 0
    (images,) = (tmp_path / "units/prepare/gauss-0.5").rglob("images.npy")
    with images.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert runner.verify_results(given, tmp_path, [], console) == 1
    said = console.file.getvalue().splitlines()
    assert said[0] == "2 results read, 0 problems" and "2 results read, 1 problems" in said[-1]
    assert said[1].startswith("prepare/gauss-0.5/16px: table/images.npy has changed")
