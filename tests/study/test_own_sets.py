"""A study over the user's own data sets: named in the configuration or by flags, looked at before anything is done."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from test_study import tiny

from jaxdiv import cli
from jaxdiv.configs import own as own_config
from jaxdiv.data.own.found import OwnSet
from jaxdiv.errors import InputError
from jaxdiv.study import config, flags, own_sets, planner, runner


def made(root, classes, images=5, seed=0):
    """A set of small images, a folder for each class."""
    rng = np.random.default_rng(seed)
    for number in range(classes):
        (root / f"class {number:02}").mkdir(parents=True)
        for i in range(images):
            pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"class {number:02}" / f"{i}.png")
    return root


def study(datasets, **fields):
    """A small study of own sets; tasks are of 5 classes with 2 + 3 images."""
    given = tiny(**{"benchmarks": (), "methods": (), "data.split.fractions": (1.0, 0.0, 0.0), **fields})
    given.datasets = datasets
    return given


def refusal(given, workdir, stages=planner.STAGES):
    """The one line of both `run` and `dry_run`; nothing is written."""
    lines = set()
    for action in (runner.run, runner.dry_run):
        with pytest.raises(InputError) as error:
            action(given, workdir, stages, Console(quiet=True))
        lines.add(str(error.value))
    (line,) = lines
    assert "\n" not in line and "`" not in line and not workdir.exists()
    return line


# The configuration


def test_sets_are_named_with_all_their_fields_or_by_their_paths_and_images_are_the_short_form(tmp_path):
    (tmp_path / "moths").mkdir()
    fields = {"path": "b", "split": "s.txt", "columns": ["file", "species", "part"], "value_range": [0, 4095]}
    fields |= {"background": "black", "normalisation": [[0.5] * 3, [0.25] * 3]}
    found = config.read(study({"birds": fields, "signs": "s.npz"}, images=str(tmp_path / "moths"))).own
    assert found == {
        "birds": OwnSet(
            "b", "s.txt", "", ("file", "species", "part"), background="black", value_range=(0, 4095),
            normalisation=((0.5,) * 3, (0.25,) * 3),
        ),
        "signs": OwnSet("s.npz"),
        "moths": OwnSet(str(tmp_path / "moths")),
    }  # fmt: skip


def test_a_folder_of_the_short_form_gets_another_name_than_the_sets_that_are_named(tmp_path):
    (tmp_path / "birds").mkdir()
    assert set(config.read(study({"Birds": "x"}, images=str(tmp_path / "birds"))).own) == {"Birds", "birds-images"}


def test_a_set_is_a_benchmark_a_part_of_unions_a_pool_and_the_fixed_test_set():
    sets = {"birds": "b", "moths": "m"}
    assert config.read(study(sets)).names == ("birds", "moths")
    found = config.read(study(sets, benchmarks=("birds+omniglot", "images"), **{"evaluation.fixed_test_set": "moths"}))
    assert found.bases("birds+omniglot") == ("birds", "omniglot") and found.bases("images") == ("birds", "moths")
    assert found.fixed_test_set == "moths"
    chosen = {"pool": "birds+moths", "classes": 10, "subsets": 1, "candidates": 20, "images": 5}
    pool = study(sets)
    pool.controlled.update(chosen)
    assert config.read(pool).bases("low-1") == ("birds", "moths")


@pytest.mark.parametrize(
    ("datasets", "line"),
    [
        (
            {"birds": {"paht": "x"}},
            "unknown field --config.datasets.birds.paht: did you mean 'path'? valid: path, split",
        ),
        (
            {"birds": {"split": "x"}},
            "--config.datasets.birds.path is missing: give the folder or archive of its images",
        ),
        ({"birds": 3}, "--config.datasets.birds is 3: give its fields, {'path': DIR}"),
        ({"dtd": "x"}, "--config.datasets.dtd: the name 'dtd' already means a benchmark: choose another one"),
        ({"all": "x"}, "--config.datasets.all: the name 'all' already means a benchmark: choose another one"),
        ({"a+b": "x"}, "--config.datasets.a+b: a name must be at most 60 letters, digits, '.', '_' or '-'"),
        ({"a": {"path": "x", "split": 3}}, "--config.datasets.a.split is 3: it must be text"),
        (
            {"a": {"path": "x", "columns": ("f", "l")}},
            "--config.datasets.a.columns is ('f', 'l'): it must have 3 texts",
        ),
        ({"a": {"path": "x", "value_range": "0,1"}}, "--config.datasets.a.value_range is '0,1': it must be a list"),
        ({"a": {"path": "x", "normalisation": "mesured"}}, "unknown normalisation 'mesured': did you mean 'measured'?"),
        ({"a": {"path": "x", "normalisation": (0.5, 1)}}, "--config.datasets.a.normalisation is (0.5, 1): give"),
        ({"a": "gs://bucket/a"}, "--config.datasets.a.path is 'gs://bucket/a': only files of this machine can be used"),
        (
            {"a": {"path": "x", "split": "s3://b/s"}},
            "--config.datasets.a.split is 's3://b/s': only files of this machine",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_mistake_in_a_set_is_named_by_its_flag(datasets, line):
    with pytest.raises(InputError) as error:
        config.read(study(datasets))
    assert str(error.value).startswith(line) and "`" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"images": "s3://bucket/a"}, "--config.images is 's3://bucket/a': only files of this machine"),
        ({"data.archive_dir": "gs://bucket"}, "--config.data.archive_dir is 'gs://bucket': only files of this machine"),
        ({"data.dir": "gs://bucket"}, "--config.data.dir is 'gs://bucket': only files of this machine"),
        ({"data.split.file": "gs://bucket/s"}, "--config.data.split.file is 'gs://bucket/s': only files of this"),
        ({"probe.weights": "gs://b/w.pth"}, "--config.probe.weights is 'gs://b/w.pth': only files of this machine"),
    ],
)
def test_an_address_in_place_of_a_path_is_refused_before_anything_is_written(tmp_path, fields, line):
    given = {"benchmarks": () if "images" in fields else ("gauss-0.1",), **fields}
    assert refusal(study({}, **given), tmp_path / "w").startswith(line)


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fields = {"data.archive_dir": "~/a", "data.dir": "~/d", "data.split.file": "~/s", "probe.weights": "~/w.pth"}
    found = config.read(study({"birds": "~/b"}, **fields))
    assert found.weights == tmp_path / "w.pth"
    settings = found.data_settings
    assert (settings.archive_dir, settings.dir) == (f"{tmp_path}/a", f"{tmp_path}/d")
    assert settings.own_set("birds") == OwnSet(f"{tmp_path}/b", f"{tmp_path}/s")


def test_flags_name_sets_that_no_configuration_has_and_change_those_that_one_has():
    line = ["jaxdiv", "--config.datasets.birds.path=DIR", "--workdir=w", "--config.datasets.a.b.split", "s.txt"]
    line += ["--config.datasets.birds.value_range=(0, 255)", "--config.datasets.birds.path=OTHER", "--config.images=x"]
    rest, given = flags.split_flags(line)
    assert rest == ["jaxdiv", "--workdir=w", "--config.images=x"]
    assert given[1] == ("a.b", "split", "s.txt")
    changed = own_config.get_config()
    changed.datasets = {"birds": {"path": "FIRST", "background": "black"}}
    changed.lock()
    own_sets.with_flags(changed, [each for each in given if each[0] == "birds"])
    assert config.read(changed).own == {"birds": OwnSet("OTHER", background="black", value_range=(0, 255))}
    changed = own_config.get_config()
    changed.datasets = {"birds": "FIRST"}  # as short as a set can be
    own_sets.with_flags(changed, [("birds", "background", "black")])
    assert config.read(changed).own == {"birds": OwnSet("FIRST", background="black")}
    with pytest.raises(InputError, match=r"--config.datasets.birds.path: .* no section"):
        own_sets.with_flags(ConfigDict(), [("birds", "path", "DIR")])
    with pytest.raises(InputError, match=r"--config.datasets.birds.path has no value"):
        flags.split_flags(["jaxdiv", "--config.datasets.birds.path", "--dry_run"])


def test_the_command_takes_sets_by_flags(tmp_path, capsys):
    line = ["jaxdiv", "--config=own", f"--config.datasets.birds.path={tmp_path}/none", f"--workdir={tmp_path}/w"]
    found = cli.configurations()
    assert "own" in found
    rest, given = flags.split_flags(cli._named(line))
    assert given == [("birds", "path", f"{tmp_path}/none")] and len(rest) == 3


def test_the_configuration_without_a_set_says_what_to_give():
    with pytest.raises(InputError, match=r"nothing to measure: name your images by .* --config.datasets.NAME.path=DIR"):
        config.read(own_config.get_config())


def test_sets_survive_the_record_of_a_study():
    found = config.flat(config.read(study({"birds": {"path": "b", "value_range": (0, 9)}, "moths": "m"})))
    assert (found["datasets.birds.path"], found["datasets.birds.value_range"]) == ("b", [0, 9])
    json.dumps(found)
    assert isinstance(study({"birds": "b"}).datasets, ConfigDict)


# What is there


def test_what_was_found_is_said_before_anything_is_done(tmp_path):
    made(tmp_path / "birds", 6)
    shutil.copy(tmp_path / "birds/class 01/1.png", tmp_path / "birds/class 01/again.png")
    made(tmp_path / "moths", 5)
    given = study({"birds": str(tmp_path / "birds"), "moths": str(tmp_path / "moths")}, methods=("pt",))
    given.evaluation.test_sets, given.data.split.fractions = ("own",), (1.0, 0.0, 0.0)
    for action in (runner.dry_run, runner.run):
        console = Console(file=io.StringIO(), width=200)
        # The study's own test needs classes; to look at what is there alone needs none.
        given.methods = ()
        action(given, tmp_path / "w", ("prepare",), console)
        lines = console.file.getvalue().splitlines()
        assert lines[0] == "birds: 6 classes (6 train) of 5 to 6 images (median 5), 31 in all"
        assert lines[1] == "moths: 5 classes (5 train) of 5 images, 25 in all"
        assert lines[2].startswith("Every task of moths is the same 25 images, in another order: its coefficient says")
        assert (tmp_path / "w").exists() == (action is runner.run)
    manifest = json.loads((tmp_path / "w" / "data" / "manifest.json").read_text())["tables"]["birds/16px"]
    assert manifest["left_out"] == {"an image that its class has already": ["class 01/again.png"]}
    assert manifest["images_per_class"] == {"least": 5, "median": 5, "most": 5}
    with Image.open(tmp_path / "w" / "data" / "birds.png") as birds, Image.open(tmp_path / "w/data/moths.png") as moths:
        assert birds.height > moths.height  # a class and a line more
    console = Console(file=io.StringIO(), width=200)
    runner.run(given, tmp_path / "w", ("prepare",), console)  # what is done already is not told again
    assert "classes" not in console.file.getvalue()


def test_too_few_classes_in_a_split_are_said_before_anything_is_written(tmp_path):
    """Ten classes split in three."""
    made(tmp_path / "textures", 10)
    given = study({"textures": str(tmp_path / "textures")}, methods=("pt",))
    given.data.split.fractions = (0.6, 0.2, 0.2)
    line = refusal(given, tmp_path / "w")
    assert line.startswith(
        "benchmark 'textures' (test split) has 2 classes, fewer than ways=5: lower --config.task.ways"
    )
    assert "the 10 classes of textures are split 6/2/2 for train/val/test) by --config.data.split.fractions" in line
    assert refusal(given, tmp_path / "w", ("prepare",)) == line
    given.task.shots = 9
    assert "are smaller than --config.task.shots + --config.task.queries = 12" in refusal(given, tmp_path / "w")


def test_a_workdir_inside_the_images_is_refused(tmp_path):
    made(tmp_path / "birds", 5, 2)
    (tmp_path / "link").symlink_to(tmp_path / "birds")
    given = study({"birds": str(tmp_path / "birds")})
    for workdir in (tmp_path / "birds" / "w", tmp_path / "link" / "a" / "w"):
        assert "is inside the images of birds" in refusal(given, workdir)
    made(tmp_path / "mine", 5, 5)
    runner.dry_run(study({"mine": str(tmp_path / "mine")}), tmp_path / "mine-w", ("prepare",), Console(quiet=True))


# What a change runs again


@pytest.fixture
def two(tmp_path):
    """Two sets that are prepared, and what the units of a study of them depend on."""
    for number, name in enumerate(("birds", "moths")):
        made(tmp_path / name, 6, 6, seed=number)  # one more than a task takes
    (tmp_path / "split.txt").write_text("".join(f"train class {i:02}\n" for i in range(6)))
    (tmp_path / "w.pth").write_bytes(b"weights")
    datasets = {"birds": {"path": str(tmp_path / "birds"), "split": str(tmp_path / "split.txt")}}
    datasets["moths"] = {"path": str(tmp_path / "moths")}
    fields = {"benchmarks": ("birds", "moths", "birds+moths"), "probe.weights": str(tmp_path / "w.pth")}

    def digests(more=None, **changed):
        mine = {name: {**of_set, **(more or {}).get(name, {})} for name, of_set in datasets.items()}
        plan = planner.plan(config.read(study(mine, **{**fields, **changed})), tmp_path / "w")
        return {unit.name.removesuffix("/resnet10_narrow"): unit.digest for unit in plan.units}

    return digests


OF_BIRDS = {
    "prepare/birds/16px",
    *(f"{stage}/{name}" for stage in ("embed", "diversity") for name in ("birds", "birds+moths")),
}
OF_PROBE = {f"{stage}/{name}" for stage in ("embed", "diversity") for name in ("birds", "moths", "birds+moths")}


def edit(root):
    """One byte of an image's file: its size stays, and its time is set back."""
    file = root / "birds/class 00/0.png"
    data, before = bytearray(file.read_bytes()), file.stat()
    data[-14] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def relabel(root):
    (root / "birds/class 00").rename(root / "birds/class 09")
    (root / "split.txt").write_text((root / "split.txt").read_text().replace("00", "09"))


CHANGES = {
    "an edit": (edit, OF_BIRDS),
    "a rename": (lambda root: (root / "birds/class 00/0.png").rename(root / "birds/class 00/z.png"), OF_BIRDS),
    "a move": (lambda root: (root / "birds/class 00/0.png").rename(root / "birds/class 01/z.png"), OF_BIRDS),
    "another label": (relabel, OF_BIRDS),
    "a class out of the split file": (lambda root: (root / "split.txt").write_text("train class 00"), OF_BIRDS),
    "words in the split file": (lambda root: (root / "split.txt").open("a").write("# mine\n"), set()),
    "other weights": (lambda root: (root / "w.pth").write_bytes(b"wEights"), OF_PROBE),
    "the same weights again": (lambda root: shutil.copy(root / "w.pth", root / "w.pth2"), set()),
    "weights that are gone": (lambda root: (root / "w.pth").unlink(), set()),
    "a file that is no image": (lambda root: (root / "birds/class 00/notes.txt").write_text("mine"), set()),
}


@pytest.mark.parametrize(("change", "stale"), CHANGES.values(), ids=CHANGES)
def test_a_change_makes_stale_what_depends_on_it_alone(two, tmp_path, change, stale):
    before = two()
    assert len(before) == 8 and two() == before
    change(tmp_path)
    after = two()
    assert {name for name in before if after[name] != before[name]} == stale


@pytest.mark.parametrize(
    ("more", "stale"),
    [
        ({"birds": {"background": "black"}}, OF_BIRDS),
        ({"birds": {"value_range": (0, 9)}}, OF_BIRDS),
        ({"birds": {"normalisation": "measured"}}, OF_BIRDS),
    ],
)
def test_a_setting_of_one_set_is_that_sets_alone(two, more, stale):
    before, after = two(), two(more)
    assert {name for name in before if after[name] != before[name]} == stale


def test_a_set_that_moved_as_a_whole_and_weights_that_moved_are_the_same(two, tmp_path):
    before = two()
    (tmp_path / "birds").rename(tmp_path / "flown")
    (tmp_path / "w.pth").rename(tmp_path / "other.pth")
    moved = two({"birds": {"path": str(tmp_path / "flown")}}, **{"probe.weights": str(tmp_path / "other.pth")})
    assert moved == before
