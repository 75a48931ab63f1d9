"""Most of this suite's time is compilation: XLA compiles without optimising, two to three times faster, which only the
speed of what it compiles notices. Read before the first import of jax; a user's own XLA_FLAGS stay."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# As `keep_freed_memory` of this process, for the processes that tests start.
os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


@pytest.fixture(scope="session")
def real():
    """The folder of real images and weights."""
    given = os.environ.get("JAXDIV_TEST_DATA")
    if not given:
        pytest.skip("JAXDIV_TEST_DATA, the folder of real images and weights, is not set")
    return Path(given)
