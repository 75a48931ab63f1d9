"""README and docs: every link leads somewhere, every command exists, and the library's page runs."""

import re
import subprocess
from pathlib import Path

import pytest

from jaxdiv import cli
from jaxdiv.configs import default
from jaxdiv.study import own_sets

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "bench" / "RESULTS.md"]
NAMED = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}


@pytest.mark.parametrize("page", NAMED)
def test_every_link_and_picture_leads_to_a_file_that_is_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", NAMED[page]):
        if not target.startswith("https://"):
            path, _, part = target.partition("#")
            linked = (ROOT / page).parent / path if path else ROOT / page
            assert linked.exists(), target
            heads = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if part else []
            assert not part or part in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, (
                target
            )


@pytest.mark.parametrize("page", NAMED)
def test_every_file_of_ours_that_a_page_names_is_there(page):
    for name in re.findall(
        r"`((?:jaxdiv|configs|tests|bench|docs|notebooks)/[\w./-]+\.(?:py|md|ipynb|png|json))`", NAMED[page]
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", NAMED)
def test_every_command_names_a_configuration_and_fields_that_exist(page):
    for line in re.findall(r"(?:jaxdiv|launch\.py) (--[^`\n]*)", NAMED[page]):
        for name in re.findall(r"--config=([\w/.]+)", line):
            if not name.endswith("PATH.py"):
                assert name in cli.configurations() or (ROOT / name).exists(), line
        for field in re.findall(r"--config\.([\w.]+)", line):
            value = default.get_config()
            if named := re.fullmatch(r"datasets\.\w+\.(\w+)", field):  # a user's data set, by any name
                assert named[1] in own_sets.FIELDS, line
                continue
            for part in field.rstrip(".").split("."):
                value = value[part]  # KeyError: no such field


def test_the_librarys_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in re.findall(r"```python\n(.*?)```", NAMED["docs/library.md"], re.DOTALL):
        exec(compile(block, "docs/library.md", "exec"), space)
    assert 0 < space["diversity"](space["embeddings"]).value < 1
    assert (tmp_path / "tasks.png").stat().st_size > 10_000
    assert space["found"].accuracy.shape == (6,) and 0 <= space["mean"] <= 1
    assert space["fit"].low < space["fit"].r2 < space["fit"].high
    assert space["embedding"].shape == (8,)


def test_the_librarys_page_imports_from_jaxdiv_alone():
    modules = re.findall(r"^(?:from|import) (jaxdiv[\w.]*)", NAMED["docs/library.md"], re.MULTILINE)
    assert modules and set(modules) == {"jaxdiv"}


def test_readme_is_a_screen_and_a_half_and_what_it_leaves_out_is_linked():
    text = NAMED["README.md"]
    assert len(text.splitlines()) <= 120
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text, page.name


def test_no_file_of_the_project_names_a_folder_of_its_makers():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".ipynb", ".json") and path.is_file():
            assert "/work/" not in path.read_text() or name == "tests/test_docs.py", name
