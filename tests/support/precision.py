"""float64 on any jax that jaxdiv allows."""

import jax

if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:  # before jax 0.8
    from jax.experimental import enable_x64  # noqa: F401
