"""The floors of the house: which package may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdiv

PACKAGE = Path(jaxdiv.__file__).parent
FOOT = {"errors", "files", "download", "progress_bar", "version", "host_memory", "device_memory"}
# From below. What a package may import besides itself and the foot; stats is NumPy and SciPy alone.
FLOORS = {
    "data": set(),
    "nets": set(),
    "probes": {"nets"},
    "task2vec": {"data", "nets", "probes"},
    "methods": {"data", "nets"},
    "stats": {"methods"},  # their names and families, from the registry
    "report": {"data", "methods", "stats", "task2vec"},
    "study": {"data", "nets", "probes", "task2vec", "methods", "stats", "report"},
}


def imports(path):
    """Every module that a file imports, wherever it does so, with `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(names):
    """The packages and modules right under jaxdiv among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("jaxdiv.")}


@pytest.mark.parametrize("package", FLOORS)
def test_a_package_imports_only_what_lies_below_it(package):
    for path in (PACKAGE / package).rglob("*.py"):
        assert rooms(imports(path)) <= FLOORS[package] | FOOT | {package}, path.name


def test_every_module_is_in_a_package_or_at_the_foot_and_the_command_alone_runs_studies():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    here = {path.stem for path in PACKAGE.glob("*.py") if not path.name.startswith("__")} | packages
    assert here == {*FLOORS, *FOOT, "cli"}
    for name in FOOT:
        assert rooms(imports(PACKAGE / f"{name}.py")) <= FOOT
    assert "study" not in rooms(imports(PACKAGE / "__init__.py"))
    assert rooms(imports(PACKAGE / "cli.py")) - FOOT == {"study"}


def test_a_stage_knows_neither_the_plan_nor_the_run_that_it_is_part_of():
    for path in (PACKAGE / "study" / "stages").glob("*.py"):
        ours = {name.split(".")[2] for name in imports(path) if name.startswith("jaxdiv.study.")}
        assert not ours & {"planner", "runner", "manifest", "progress", "config"}, path.name


def test_the_statistics_know_neither_jax_nor_a_drawing():
    outside = {name.split(".")[0] for path in (PACKAGE / "stats").glob("*.py") for name in imports(path)}
    methods = {name for path in (PACKAGE / "stats").glob("*.py") for name in imports(path) if ".methods" in name}
    assert {name.rpartition(".")[0] for name in methods} <= {"jaxdiv.methods.registry"}
    assert outside & {"jax", "flax", "optax", "matplotlib", "rich", "PIL"} == set()


def test_the_package_and_its_command_start_without_jax():
    asked = "import sys, jaxdiv.cli; print(sorted({'jax', 'numpy', 'flax', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_under_its_own_name():
    for name in jaxdiv.__all__:
        assert getattr(jaxdiv, name).__name__.split(".")[-1] == name if name != "__version__" else jaxdiv.__version__


def test_every_package_says_what_comes_in_what_goes_out_and_who_may_import_it():
    for package in FLOORS:
        text = ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text()))
        for word in ("In: ", "Out: ", "may import it."):
            assert word in text, package


def test_no_public_name_hides_a_module():
    for name in set(jaxdiv.__all__) - set(FLOORS):
        assert not (PACKAGE / name).exists() and not (PACKAGE / f"{name}.py").exists(), name


def test_no_module_imports_itself_in_a_circle():
    modules = {
        ".".join(("jaxdiv", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in PACKAGE.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items() if path.stem != "__main__"}
    left = {
        name: {full if full in modules else full.rpartition(".")[0] for full in imports(path)} & set(modules) - {name}
        for name, path in modules.items()
    }
    while free := [name for name, needs in left.items() if not needs]:
        left = {name: needs - set(free) for name, needs in left.items() if name not in free}
    assert not left, left
