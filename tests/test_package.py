"""What `pip install` gives: a wheel that is the product, its command, and one line for a mistake in its flags."""

import ast
import re
import subprocess
import sys
import tomllib
import venv
import warnings
import zipfile
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from tiny_study import PRE_TRAINING, flags

from jaxdiv import cli
from jaxdiv.errors import InputError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what git would have, so that nothing left lying in the clone gets in."""
    copy = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((copy / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel alone; its dependencies are read from this one's, since tests have no
    network. `.ci/matrix` installs it with its dependencies into an empty one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    here = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (next(folder.glob("lib/python*/site-packages")) / "dependencies.pth").write_text(f"{here}\n")
    return folder / "bin"


def names(wheel):
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_the_wheel_has_every_module_every_configuration_and_every_table_of_facts(wheel):
    held = names(wheel)
    for folder, place in (("jaxdiv", "jaxdiv"), ("configs", "jaxdiv/configs")):
        files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".pyi", ".json", ".typed")]
        assert files
        assert {f"{place}/{path.relative_to(ROOT / folder)}" for path in files} <= held
    assert not {name for name in held if name.startswith(("tests", "bench", "configs", "launch"))}


def test_the_metadata_name_who_where_and_under_which_licence(wheel):
    with zipfile.ZipFile(wheel) as file:
        text = file.read(next(name for name in file.namelist() if name.endswith("METADATA"))).decode()
    for line in ("License-Expression: MIT", "License-File: LICENSE", "Requires-Python: >=3.11", "Author: "):
        assert f"\n{line}" in text
    assert text.count("\nProject-URL: ") >= 3 and text.count("\nClassifier: ") >= 8
    assert "Description-Content-Type: text/markdown" in text


def test_a_package_page_is_the_readme_with_whole_addresses(wheel):
    with zipfile.ZipFile(wheel) as file:
        text = file.read(next(name for name in file.namelist() if name.endswith("METADATA"))).decode()
    readme = (ROOT / "README.md").read_text()
    assert "\n# jaxdiv\n" in text and text.count("\n## ") == readme.count("\n## ")
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", text)
    assert len(links) == len(re.findall(r"\]\(", readme)) and all(link.startswith("https://") for _, link in links)
    (picture,) = (link for mark, link in links if mark)
    assert "<img" not in readme and (ROOT / picture.partition("/main/")[2]).is_file()


def test_a_wheel_outside_the_clone_runs_the_embedded_study_to_its_report(installed, tmp_path):
    command = [installed / "jaxdiv", "--workdir=W", *flags(PRE_TRAINING)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "W" / "report" / "report.html").stat().st_size > 10_000
    where = [
        installed / "python",
        "-c",
        "import jaxdiv, jaxdiv.configs; print(jaxdiv.__file__, jaxdiv.configs.__file__)",
    ]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert all(Path(path).is_relative_to(installed.parent) for path in found), found


def test_the_command_and_python_m_show_a_newcomer_the_same_help(installed, tmp_path):
    shown = [
        subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True)
        for command in ([installed / "jaxdiv"], [installed / "python", "-m", "jaxdiv"])
    ]
    assert shown[0].stdout == shown[1].stdout
    assert shown[0].returncode == shown[1].returncode == 0 and not shown[0].stderr
    for word in ("--config=folder --config.images=DIR", "--workdir", "--stages", "--dry_run", *cli.configurations()):
        assert word in shown[0].stdout


def test_every_configuration_that_help_names_says_what_it_is_in_one_line():
    assert {"default", "folder", "sample", "paper", "controlled", "omniglot"} <= set(cli.configurations())
    for name, file in cli.configurations().items():
        first = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
        assert first.endswith(".") and len(first) <= 110, name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--config=foldr"], ["unknown configuration 'foldr'", "did you mean 'folder'", "path of a .py file"]),
        (["--config", "controled:real"], ["unknown configuration 'controled'", "did you mean 'controlled'"]),
        (["--config=mine/none.py:real"], ["mine/none.py", "no such file", "controlled, default, folder"]),
    ],
)
def test_a_configuration_that_does_not_exist_is_one_line_with_the_nearest_names(given, words):
    with pytest.raises(InputError) as error:
        cli._named(["jaxdiv", *given])
    for word in words:
        assert word in str(error.value)


def test_a_name_stands_for_its_file_and_keeps_its_argument():
    file = cli.configurations()["controlled"]
    assert cli._named(["jaxdiv", "--config=controlled:real", "--workdir=default"]) == [
        *("jaxdiv", f"--config={file}:real", "--workdir=default")
    ]
    assert cli._named(["jaxdiv", "--config", "controlled"])[2] == str(file)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--config=foldr"], ["unknown configuration 'foldr'"]),
        (["--config=folder", "--config.imagesx=3"], ["unknown configuration field", "--config.imagesx=3", "images"]),
        (["--config.maml.stps=3"], ["unknown configuration field", "--config.maml.stps=3", "steps"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(given, words):
    done = subprocess.run([sys.executable, "-m", "jaxdiv", *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("module", ["jaxdiv.study.planner", "jaxdiv.nets.conv", "configs.default", "test_package"])
def test_what_a_library_is_about_to_take_away_is_an_error_in_our_own_code(module):
    for category in (DeprecationWarning, FutureWarning):
        with pytest.raises(category):
            warnings.warn_explicit("will be removed", category, f"{module}.py", 1, module=module)
    with pytest.warns(PendingDeprecationWarning):  # not an error
        warnings.warn_explicit("another's", PendingDeprecationWarning, "other.py", 1, module="somebody.elses")


def test_every_dependency_has_a_lower_bound_and_none_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"].values()
    for requirement in (*PROJECT["project"]["dependencies"], *chain.from_iterable(extras)):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[\w+\])?>=[0-9.]+(; .*)?", requirement), requirement


def test_every_package_that_the_code_imports_is_declared():
    """By its own name: what another dependency brings along may be gone tomorrow."""
    owners = metadata.packages_distributions()
    project = PROJECT["project"]
    engines = [*project["optional-dependencies"]["ray"], *project["optional-dependencies"]["slurm"]]
    # Extras: each is imported by one module, where it is asked for.
    needed = [*project["dependencies"], *project["optional-dependencies"]["hf"], *engines]
    declared = {re.split(r"[\[>]", requirement)[0].lower().replace("_", "-") for requirement in needed}
    files = [*(ROOT / "jaxdiv").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for top in {module.split(".")[0] for module in modules if module}:
                if top == "jaxdiv" or top in sys.stdlib_module_names:
                    continue
                assert {name.lower().replace("_", "-") for name in owners.get(top, [top])} & declared, (file, top)
