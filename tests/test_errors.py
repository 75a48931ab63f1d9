"""What a mistake gets: the library names arguments, the command flags, and what is missing before any work is done."""

import ast
import io
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import jax
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from rich.console import Console
from test_study import tiny

import jaxdiv
from jaxdiv import embed_benchmark, load_benchmark, load_probe, meta_gradient, sample_tasks
from jaxdiv.data.prepare import DataSettings, check_inputs
from jaxdiv.data.public import builders
from jaxdiv.errors import InputError
from jaxdiv.probes.weights import check_weights
from jaxdiv.study import flags, planner, runner

PACKAGE = Path(jaxdiv.__file__).parent
# What only the command uses: studies, and the pages that tell who ran one what to run next. The rest is a library.
COMMAND = {"__main__.py", "cli.py", "study", "survey.py", "comparison.py", "configs"}
LIBRARY = [path for path in sorted(PACKAGE.rglob("*.py")) if not COMMAND & set(path.relative_to(PACKAGE).parts)]
FLAG = re.compile(r"--(config|workdir|stages|dry_run)\b")


def texts(path):
    """Every string of a module, those inside f-strings too."""
    return [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_text_of_the_library_has_a_flag_of_the_command(path):
    assert not [text for text in texts(path) if isinstance(text, str) and FLAG.search(text)]


def errors_of(path):
    """The texts of a module's InputErrors."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
            parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            yield "".join(part for part in parts if isinstance(part, str))


def test_every_setting_of_data_that_an_error_names_exists_and_has_a_flag_that_exists():
    named = {name for path in LIBRARY for text in errors_of(path) for name in re.findall(r"`(DataSettings\.\w+)", text)}
    assert named >= {"DataSettings.partial", "DataSettings.own", "DataSettings.archive_dir"}
    assert {name.partition(".")[2] for name in named} <= {field.name for field in fields(DataSettings)}
    assert named <= flags.FLAGS.keys()
    config = tiny()
    for flag in re.findall(r"--config\.([\w.]+)", " ".join(flags.FLAGS.values())):
        assert config.get_oneway_ref(flag.split(".")[0]) is not None
        value = config
        for part in flag.split("."):
            value = value[part]  # KeyError: no such field


def refused(workdir, stages=planner.STAGES, **given):
    """The line of `run`, which must be that of `dry_run`, and nothing written."""
    lines = []
    for action in (runner.dry_run, runner.run):
        with pytest.raises(InputError) as error:
            action(tiny(**given), workdir, stages, Console(file=io.StringIO()))
        lines.append(str(error.value))
        assert "\n" not in lines[-1] and "`" not in lines[-1], lines[-1]
    assert lines[0] == lines[1] and not workdir.exists()
    return lines[0]


def said(call):
    """The library's line for the same mistake."""
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value) and not FLAG.search(str(error.value))
    return str(error.value)


OWN = {"benchmarks": ("images",), "methods": ()}


def test_a_folder_that_does_not_exist_is_said_before_anything_is_written(tmp_path):
    assert "nowhere is missing: expected a folder" in refused(tmp_path / "w", **OWN, images=str(tmp_path / "nowhere"))
    line = said(lambda: DataSettings(own={"mine": str(tmp_path / "nowhere")}).outline("mine"))
    assert "nowhere is missing" in line


def test_no_folder_at_all_is_said_before_anything_is_written(tmp_path):
    assert "name it by --config.images=DIR" in refused(tmp_path / "w", **OWN)
    assert "name it by `DataSettings.own`" in said(lambda: check_inputs("images", DataSettings()))


@pytest.mark.parametrize("name", ["gauss-0.1", "dtd", "omniglot"])
def test_an_archive_dir_that_is_no_folder_is_said_before_anything_is_written(tmp_path, name):
    nowhere = str(tmp_path / "nowhere")
    line = refused(tmp_path / "w", benchmarks=(name,), methods=(), **{"data.archive_dir": nowhere})
    assert line == f"--config.data.archive_dir is {nowhere}, which is no folder"
    line = said(lambda: check_inputs(name, DataSettings(archive_dir=nowhere)))
    assert line == f"`DataSettings.archive_dir` is {nowhere}, which is no folder"


def test_an_archive_that_cannot_come_is_said_before_the_others_are_prepared(tmp_path):
    both = {"benchmarks": ("gauss-0.1", "mini_imagenet"), "methods": (), "data.download": False}
    line = refused(tmp_path / "w", **both)
    assert "get Mini-ImageNet" in line and "name it by --config.data.archive_dir" in line
    assert "(downloads are off)" in refused(tmp_path / "w", benchmarks=("dtd",), methods=(), **{"data.download": False})
    line = said(lambda: builders.prepare("mini_imagenet", None, tmp_path, download=False))
    assert "name it by `DataSettings.archive_dir`" in line


def test_a_file_of_weights_that_does_not_exist_is_said_before_anything_is_written(tmp_path):
    given = {"probe.weights": str(tmp_path / "none.pth")}
    assert f"no weights at {tmp_path}/none.pth" in refused(tmp_path / "w", **given)
    assert "no ImageNet weights for resnet10_narrow" in refused(tmp_path / "w", **{"probe.weights": "imagenet"})
    assert "expected" in refused(tmp_path / "w", **{"probe.weights": str(tmp_path)})
    said(lambda: check_weights("resnet18", tmp_path / "none.pth"))
    # A link of the chain that needs no probe does not ask for its weights.
    runner.dry_run(tiny(**given), tmp_path / "w", ("prepare", "train"), Console(file=io.StringIO()))


def test_a_file_of_splits_or_fractions_that_cannot_be_used_are_said_before_anything_is_written(tmp_path):
    (tmp_path / "a").mkdir()
    own = {**OWN, "images": str(tmp_path / "a")}
    line = refused(tmp_path / "w", **own, **{"data.split.file": str(tmp_path / "none.txt")})
    assert line.startswith(f"--config.data.split.file: {tmp_path}/none.txt cannot be read")
    line = refused(tmp_path / "w", **own, **{"data.split.fractions": (0.5, 0.1, 0.1)})
    assert line.startswith("--config.data.split.fractions is (0.5, 0.1, 0.1): give 3 shares")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "given", [{"classes": (5,)}, {"classes": (0, 0, 0)}, {"classes": (-1, 5, 5)}, {"images_per_class": 0}]
)
def test_a_generated_benchmark_of_no_images_is_said_before_anything_is_written(tmp_path, given):
    line = refused(tmp_path / "w", methods=(), **{f"data.{name}": value for name, value in given.items()})
    assert f"--config.data.{next(iter(given))} is " in line
    assert "`DataSettings.classes` is (" in said(lambda: check_inputs("gauss-0.1", DataSettings(**given)))


@pytest.mark.usefixtures("unchecked")
def test_images_of_no_pixel_are_an_error():
    for pixels in (-3, 1.5):
        assert f"`pixels` is {pixels}" in said(lambda pixels=pixels: load_benchmark("gauss-0.1", pixels=pixels))


def test_a_task_that_is_no_batch_and_negative_steps_are_errors_of_a_meta_gradient():
    table = load_benchmark("gauss-0.1", pixels=4, settings=DataSettings(classes=(5, 1, 1), images_per_class=2))
    tasks = sample_tasks(jax.random.key(0), table, shots=1, queries=1)
    linear = lambda weights, images: images.reshape(len(images), -1) @ weights
    weights = np.zeros((48, 5), np.float32)
    one = jax.tree.map(lambda leaf: leaf[0], tasks)
    assert "`tasks` must have a leading axis" in said(lambda: meta_gradient(linear, weights, one))
    assert "`inner_steps` is -1" in said(lambda: meta_gradient(linear, weights, tasks, inner_steps=-1))


def test_a_finished_unit_does_not_ask_for_its_files_again(tmp_path):
    given = {"benchmarks": ("gauss-0.1",), "methods": ()}
    console = Console(file=io.StringIO())
    assert runner.run(tiny(**given), tmp_path / "w", ("prepare",), console) == 0
    moved = tiny(**given, **{"data.archive_dir": str(tmp_path / "moved")})
    assert runner.run(moved, tmp_path / "w", ("prepare",), console) == 0


def test_a_workdir_on_a_full_disk_is_named_by_its_flag(tmp_path, monkeypatch):
    full = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    monkeypatch.setattr("jaxdiv.data.store.os.fsync", full)
    with pytest.raises(InputError, match="or set --workdir to another folder") as error:
        runner.run(tiny(), tmp_path / "w", ("prepare",), Console(file=io.StringIO()))
    assert "`" not in str(error.value)


def test_an_argument_becomes_its_flag_with_its_value_and_other_text_stays():
    with pytest.raises(InputError) as error, flags.in_flags(quotas="--config.data.cut.classes"):
        raise InputError("lower `ways`, set `DataSettings.partial=True`, `quotas` or `x`; of `a b`")
    line = "lower --config.task.ways, set --config.data.partial=true, --config.data.cut.classes or `x`; of `a b`"
    assert str(error.value) == line


def python(*arguments, **more):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=200, check=False, **more
    )


@pytest.mark.parametrize(
    ("line", "module"),
    [
        (["-m", "jaxdiv.study.runner"], "jaxdiv.study.runner"),
        (["-m", "jaxdiv.study.runner", "--workdir=x", "-m", "pytest"], "jaxdiv.study.runner"),
        (["-W", "error", "-m", "jaxdiv.task2vec.fisher"], "jaxdiv.task2vec.fisher"),
        (["-mjaxdiv.data.benchmarks"], "jaxdiv.data.benchmarks"),
        (["-Im", "jaxdiv.probes.resnet"], "jaxdiv.probes.resnet"),
        (["-m", "jaxdiv.data"], "jaxdiv.data"),
    ],
)
def test_a_module_of_the_library_run_as_a_command_says_so_in_one_line(line, module):
    done = python(*line)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: {module} is no command") and done.stderr.count("\n") == 1
    assert "run `jaxdiv` (or `python -m jaxdiv`)" in done.stderr


def test_a_platform_that_jax_does_not_have_is_one_line_and_nothing_is_written(tmp_path):
    command = ["-m", "jaxdiv", "--workdir=w", "--stages=prepare"]
    done = python(*command, cwd=tmp_path, env=os.environ | {"JAX_PLATFORMS": "nonsense"})
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: JAX has no device on JAX_PLATFORMS='nonsense' (Unable to initialize backend")
    assert done.stderr.count("\n") == 1


SPAWNS = """
import multiprocessing

def of_child(number):
    import jaxdiv
    return number + len(jaxdiv.__all__)

if __name__ == "__main__":
    import jaxdiv
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(of_child, [0]) == [len(jaxdiv.__all__)])
"""


def test_every_other_way_to_import_the_library_goes_on(tmp_path):
    (tmp_path / "jaxdiv_user").mkdir()
    (tmp_path / "jaxdiv_user" / "__init__.py").write_text("import jaxdiv.errors\n")
    (tmp_path / "jaxdiv_user" / "spawns.py").write_text(SPAWNS)
    assert python("-m", "jaxdiv_user.spawns", cwd=tmp_path).stdout == "True\n"
    assert python("-m", "jaxdiv", "--help").returncode == 0
    (tmp_path / "test_it.py").write_text("import jaxdiv\n\ndef test_it():\n    assert jaxdiv.__version__\n")
    assert "1 passed" in python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py", cwd=tmp_path).stdout


def test_the_same_mistake_is_an_argument_in_the_library_and_a_flag_in_the_command(tmp_path):
    small = DataSettings(classes=(4, 4, 4), images_per_class=6)
    table = load_benchmark("gauss-0.1", pixels=16, settings=small)
    line = said(lambda: embed_benchmark(load_probe("resnet10_narrow"), table, tasks=3, shots=2, queries=3))
    assert line.endswith("has 4 classes, fewer than ways=5: lower `ways`")
    with pytest.raises(InputError) as error:
        stages = ("prepare", "diversity")
        runner.run(tiny(**{"data.classes": (4, 4, 4)}), tmp_path, stages, Console(file=io.StringIO()))
    assert str(error.value).endswith("has 4 classes, fewer than ways=5: lower --config.task.ways")
    assert np.asarray(table.count).tolist() == [6] * 4


def test_a_notebook_shows_a_users_mistake_as_one_line_and_no_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell()
    shell.run_cell("from jaxdiv.errors import InputError\nraise InputError('no images in \\x1bDIR')")
    assert capsys.readouterr().out == "InputError: no images in \\x1bDIR\n"
