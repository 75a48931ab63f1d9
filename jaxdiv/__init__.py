"""Task2Vec data diversity, MAML and pre-training in JAX, and what the one says about the other."""

import sys

if sys.argv[:1] == ["-m"]:  # only while `python -m` locates its module, which is then the one before the arguments
    _asked = sys.orig_argv[-len(sys.argv)]
    _asked = _asked.partition("m")[2] if _asked.startswith("-") else _asked  # -mjaxdiv.study
    if _asked.startswith("jaxdiv.") and _asked != "jaxdiv.__main__":
        hint = "run `jaxdiv` (or `python -m jaxdiv`); see `jaxdiv --help`"
        print(f"error: {_asked} is no command: the modules of jaxdiv are a library; {hint}", file=sys.stderr)
        sys.exit(2)

import lazy_loader

# What __init__.pyi imports, each name when it is first used: `jaxdiv --help` and a mistake in a flag need no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
