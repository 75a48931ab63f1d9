"""The notebook as a newcomer runs it: top to bottom in a kernel of its own, with smaller settings."""

import html
import re
import shlex
from pathlib import Path

import jax
import nbformat
import pytest
from nbclient import NotebookClient
from tiny_study import PRE_TRAINING, flags

from jaxdiv import DataSettings, cross_diversity, diversity, embed_benchmark, load_benchmark, load_probe

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "jaxdiv.ipynb"
SETTINGS = f'''
PIXELS, TASKS = 8, 3
PROBE, WEIGHTS = "resnet10_narrow", None
STUDY = """{shlex.join(flags(PRE_TRAINING))}"""
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The notebook after a run on a CPU, by cell: (id -> outputs), and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, 4)
    at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.write(notebook, folder / "executed.ipynb")
    yield {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}, folder


def said(outputs):
    """What a cell printed and the text of what it showed."""
    texts = [output.text if output.output_type == "stream" else output.data["text/plain"] for output in outputs]
    return "".join(texts)


def embedded(folder, seed):
    table = load_benchmark("own", pixels=8, settings=DataSettings(own={"own": str(folder)}))
    return embed_benchmark(
        load_probe("resnet10_narrow"), table, tasks=3, key=jax.random.key(seed), progress=lambda _: None
    )


def test_the_notebook_prints_what_the_library_finds(run):
    outputs, folder = run
    mine, others = embedded(folder / "stand-in-similar", 0), embedded(folder / "stand-in-different", 1)
    value, low, high = diversity(mine)
    assert f"diversity of stand-in-similar: {value:.3f}, 95% interval [{low:.3f}, {high:.3f}]" in said(
        outputs["coefficient"]
    )
    for name, found in (("stand-in-different", diversity(others)), ("between the two", cross_diversity(mine, others))):
        assert f"{name}: {found.value:.3f}, 95% interval [{found.low:.3f}, {found.high:.3f}]" in said(outputs["other"])
    assert "stand in for yours" in said(outputs["stand-ins"])


def test_values_are_one_line_and_tasks_have_a_bar(run):
    outputs, _ = run
    assert "ImageTable(10 classes, 200 images of 8x8x3, one data set, on the device)" in said(outputs["images"])
    assert "Probe(resnet10_narrow, 1,440 entries, 0.3 M parameters)" in said(outputs["coefficient"])
    for cell in ("coefficient", "other"):  # a widget where ipywidgets is installed, text elsewhere
        assert re.search(r"embedding tasks.*\| ?3/3|embedding tasks.*0/3", said(outputs[cell])), said(outputs[cell])


def test_every_picture_is_shown(run):
    outputs, _ = run
    pictures = {
        cell: sum("image/png" in output.get("data", {}) for output in of_cell) for cell, of_cell in outputs.items()
    }
    assert {cell: count for cell, count in pictures.items() if count} == {"images": 1, "tasks": 1, "other": 2}


def test_the_studys_report_is_shown_inline(run):
    outputs, folder = run
    study = said(outputs["study"])
    assert "] train/gauss-0.5/pt/seed0: done" in study and "report: study/report/report.html" in study
    assert "\x1b[" not in study, "a terminal's control codes"
    (shown,) = outputs["report"]
    (inside,) = re.findall(r'srcdoc="([^"]*)"', shown.data["text/html"])
    base = '<base href="about:srcdoc">'  # without it a link to a part of the page loads the notebook into the frame
    page = html.unescape(inside)
    assert f"<head>{base}" in page
    assert page.replace(base, "") == (folder / "study" / "report" / "report.html").read_text(encoding="utf-8")


def test_no_cell_fails_or_warns(run):
    outputs, _ = run
    every = [output for of_cell in outputs.values() for output in of_cell]
    assert [o for o in every if o.output_type == "error" or (o.output_type == "stream" and o.name == "stderr")] == []


def test_the_notebook_is_committed_clean():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = notebook.cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")
    assert all(re.fullmatch(r"[a-z-]+", cell.id) for cell in cells), "an id that says what the cell does"
