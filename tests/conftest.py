"""Most of this suite's time is compilation: XLA compiles without optimising, two to three times faster, which only the
speed of what it compiles notices. Read before the first import of jax; a user's own XLA_FLAGS stay."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
