"""A choice of classes for people: from a pool to a list, a curve and a sentence; and what cannot be chosen."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from own_sets import images, write
from rich.console import Console
from test_study import tiny

from jaxdiv import choice_gain, choose_classes, load_probe, pairwise_distances, sample_batch
from jaxdiv.configs import choose as choose_config
from jaxdiv.data.table import make_table, take
from jaxdiv.errors import InputError
from jaxdiv.study import config as door
from jaxdiv.study import planner, runner
from jaxdiv.study.stages import embed, select

POOL, HAVE = "gauss-0.5", "gauss-1.5"
FIELDS = {"benchmarks": (), "methods": (), "choice.pool": POOL, "choice.have": HAVE, "choice.classes": 3}


def plan(workdir, **fields):
    return planner.plan(door.read(tiny(**FIELDS | fields)), workdir)


def mean_images(probe, table, rows, images, *more):
    """In place of a probe's embeddings, which take a minute to compile: each class's mean image."""
    return np.array([np.asarray(take(table, [int(row)], images, 0).images).mean(0).ravel() + 1.0 for row in rows])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The plan of a study that chose 3 of 8 classes to add to 8 others, and what it said."""
    workdir, console = tmp_path_factory.mktemp("choose"), Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "embed_classes", mean_images)
        patch.setattr(embed, "embed_benchmark", lambda probe, table, tasks, *more, **how: np.eye(tasks, 9) + 1.0)
        assert runner.run(tiny(**FIELDS), workdir, planner.STAGES, console) == 0
    return plan(workdir), console.file.getvalue()


def test_the_list_is_the_choice_on_all_images_and_its_gain_is_measured_across_halves(done):
    made, _ = done
    whole, *halves = (pairwise_distances(unit.arrays["embeddings"]) for unit in made.candidates)
    assert len(whole) == 16 and not np.allclose(*halves)
    have = range(8, 16)  # the pool's come first
    rows = list(csv.DictReader((made.workdir / "report" / "choice.csv").open()))
    names = made.candidates[0].result["classes"]
    assert [row["class"] for row in rows] == [names[row] for row in choose_classes(whole, 3, have=have)]
    assert {row["data_set"] for row in rows} == {POOL} and [row["rank"] for row in rows] == ["1", "2", "3"]
    expected = choice_gain(*halves, 3, have=have)
    for row, point in zip(rows, expected[1:], strict=True):
        assert float(row["diversity"]) == pytest.approx(point.diversity)
        assert float(row["gain"]) == pytest.approx(point.diversity - point.random)
        assert float(row["gain_low"]) <= float(row["gain"]) <= float(row["gain_high"])


def test_the_report_has_the_sentence_the_curve_and_the_list_and_the_terminal_says_where_it_is(done):
    made, said = done
    folder = made.workdir / "report"
    assert {"choice.csv", "choice.png", "choice.svg", "report.html"} <= {file.name for file in folder.iterdir()}
    sentence = f"{HAVE} and the 3 classes of {POOL} that add most diversity have a diversity of ."
    page = (folder / "report.html").read_text()
    assert (
        sentence in page and 'id="choice-axes_1"' in page and "measured on images that the choice did not see" in page
    )
    assert sentence in said and f"choice: {folder / 'choice.csv'}" in said


def test_another_number_embeds_nothing_again(done):
    made, _ = done
    again = plan(made.workdir, **{"choice.classes": 5})
    assert all(unit.done for unit in again.candidates) and not again.choice.done


def test_the_halves_share_no_image_neither_of_a_class_nor_of_the_background(monkeypatch):
    seen, probe = [], load_probe("resnet10_narrow")

    def embed_classes(probe, table, rows, images, key, *more):
        seen.append((table, images, sample_batch(key, table, 9)[1]))
        return np.ones((len(rows), 2))

    monkeypatch.setattr(select, "embed_classes", embed_classes)
    by_class = [np.arange(40, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 8, 8, 3), np.uint8) for _ in range(3)]
    table = make_table(by_class, list("abc"), [0.5] * 3, [0.25] * 3)
    spec = plan(Path()).candidates[0].spec
    for half in (0, 1):
        select.embed_pool(select.HalfSpec(**vars(spec) | {"images": 9}, half=half), (table, probe), lambda *told: None)
    (one, images_of_one, background), (other, images_of_other, other_background) = seen
    assert images_of_one == images_of_other == 4
    assert background.tolist() != other_background.tolist()  # not the same classes at least
    for name in range(3):
        mine, theirs = (set(np.asarray(half.images)[4 * name : 4 * name + 4, 0, 0, 0]) for half in (one, other))
        assert len(mine) == len(theirs) == 4 and not mine & theirs
    assert len(one.images) == len(other.images) == 12  # the background is drawn from these


def test_a_folder_that_one_has_is_told_from_the_pool_by_its_path(tmp_path):
    for name in ("pool", "more", "mine"):
        write(tmp_path / name, images(*(f"{c}/{i}.png" for c in range(6) for i in range(3))))
    config = choose_config.get_config(f"{tmp_path / 'pool'},{tmp_path / 'more'}")
    config.choice.have = str(tmp_path / "mine")
    study = door.read(config)
    assert (study.pool, study.have, study.names) == ("pool+more", "mine", ("pool", "more", "mine"))
    config.choice.have = "mini_imagenet"
    study = door.read(config)
    assert (study.pool, study.have, study.names) == ("pool+more", "mini_imagenet", ("pool", "more", "mini_imagenet"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"choice.classes": 9}, "--config.choice.classes is 9: gauss-0.5 has 8 classes"),
        ({"choice.classes": 0}, "--config.choice.classes is 0: say how many"),
        ({"choice.have": "", "choice.classes": 1}, "one class alone has no diversity"),
        ({"choice.have": POOL}, "--config.choice.have has gauss-0.5, and so has the pool"),
        ({"choice.goal": "mots"}, "unknown goal 'mots'"),
        ({"choice.pool": f"{POOL}@6_random"}, "without an @"),
        ({"choice.have": "nowhere/at-all"}, "nowhere/at-all"),
        ({"methods": ("pt",)}, "trains nothing"),
        ({"data.cut.images": 6}, "no --config.data.cut"),
    ],
)
def test_what_cannot_be_chosen_is_one_line_before_anything_is_written(fields, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        runner.run(tiny(**FIELDS | fields), tmp_path, planner.STAGES, Console(quiet=True))
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())
