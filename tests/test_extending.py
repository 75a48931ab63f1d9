"""docs/extending.md: its blocks, executed, add what they say, in as many places as it counts."""

import re
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from sample_archives import of_classes
from walks import blocks, exists, follow

import jaxdiv
from jaxdiv.report import wording
from jaxdiv.stats.confounders import Verdict
from jaxdiv.stats.rows import Reason

PACKAGE = Path(jaxdiv.__file__).parent


def test_a_distance_is_one_file_and_has_its_name_on_axes(monkeypatch):
    follow("A distance", monkeypatch)
    found = jaxdiv.pairwise_distances(np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]]), "hellinger")
    np.testing.assert_allclose(found, [[0, 1, 0], [1, 0, 1], [0, 1, 0]])  # disjoint: 1; proportional: 0
    assert wording.distance_text("hellinger") == "Hellinger distance, 0–1"


def test_a_data_set_is_one_file_and_loads_by_its_name(monkeypatch, tmp_path):
    follow("A data set", monkeypatch)
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive:
        for name, content in of_classes([f"tile {i:02}" for i in range(12)], images=20).items():
            archive.writestr(name, content)
    settings = jaxdiv.DataSettings(archive_dir=str(tmp_path), dir=str(tmp_path / "prepared"))
    table = jaxdiv.load_benchmark("tiles", "val", pixels=8, settings=settings)
    assert table.classes == ("tile 06", "tile 07", "tile 08") and np.asarray(table.count).tolist() == [20] * 3


def test_a_probe_is_one_new_file_and_one_line_and_embeds_a_task(monkeypatch):
    follow("A probe", monkeypatch)
    probe = jaxdiv.load_probe("random_patches")
    images = jax.random.normal(jax.random.key(1), (8, 6, 6, 3))
    found = jaxdiv.embed(probe, images, np.arange(8) % 2, ways=2)
    assert found.shape == (32,) and float(found.min()) >= 0 < float(found.max())


@pytest.mark.parametrize(
    ("heading", "new", "changed"),
    [
        ("A distance", 0, {"jaxdiv/task2vec/coefficient.py"}),
        ("A data set", 0, {"jaxdiv/data/registry.py"}),
        ("A probe", 1, {"jaxdiv/probes/registry.py"}),
        ("A method", 1, {"jaxdiv/methods/registry.py"}),
    ],
)
def test_a_walk_goes_to_as_many_places_as_the_page_counts(heading, new, changed):
    walk = list(blocks(heading))
    assert {file for file, _, _ in walk if exists(file)} == changed
    assert len({file for file, _, _ in walk if not exists(file)}) == new
    if new:
        assert [len(text.splitlines()) for _, dictionary, text in walk if dictionary] == [1]


def named_in(word, but):
    """The lines of code that name a thing, by file; words in docstrings and comments do not count."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        if file.name != but:
            code = re.sub(r"#.*", "", re.sub(r'""".*?"""', "", file.read_text(), flags=re.DOTALL))
            if lines := [line for line in code.splitlines() if re.search(word, line, re.IGNORECASE)]:
                found[file.relative_to(PACKAGE).as_posix()] = lines
    return found


def test_protonet_is_one_file_and_one_line():
    found = named_in("protonet", "protonet.py")
    assert list(found) == ["methods/registry.py"] and len(found["methods/registry.py"]) == 1


def test_the_words_of_every_verdict_and_reason_are_in_one_file():
    source = Path(wording.__file__).read_text()
    assert all(f"{type(member).__name__}.{member.name}: " in source for member in (*Verdict, *Reason))
