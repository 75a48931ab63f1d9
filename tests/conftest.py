"""Most of this suite's time is compilation: XLA compiles without optimising, two to three times faster, which only the
speed of what it compiles notices, and the processes of one run share what they compile. Read before the first import of
jax; a user's own XLA_FLAGS stay."""

import os
import tempfile
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers, and all that they start, inherit it
    _compiled = tempfile.TemporaryDirectory(prefix="jaxdiv-compiled-")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": _compiled.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    os.environ["JAXDIV_CACHE"] = f"{_compiled.name}/jaxdiv"  # nothing that tests keep is left behind
# As `keep_freed_memory` of this process, for the processes that tests start.
os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}

# Every call of the package is held to the types and shapes of its signature, where an int is a float too (PEP 484).
install_import_hook("jaxdiv", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

LONGEST = ("test_study.py", "test_resume.py", "test_notebook.py", "test_maml_peers.py", "test_package.py")
LONGEST += ("test_docs.py", "test_planner.py", "test_samplers.py")


def pytest_collection_modifyitems(config, items):
    """The longest files first: one at the end would leave the other cores idle. Slow ones only where asked for."""
    for item in items:
        if item.get_closest_marker("slow") and "slow" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="minutes of work: run with -m slow"))
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def unchecked():
    """No check of the types: a wrong argument reaches the function itself, as a user's does."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def real():
    """The folder of real images and weights."""
    given = os.environ.get("JAXDIV_TEST_DATA")
    if not given:
        pytest.skip("JAXDIV_TEST_DATA, the folder of real images and weights, is not set")
    return Path(given)
