"""The blocks of docs/extending.md, put where their first lines say."""

import importlib
import re
import sys
import types
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


def blocks(heading):
    """File, dictionary ("" for code) and text of each block under a heading."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (mine,) = [part for part in section if part.startswith(f"{heading}\n")]
    for block in re.findall(r"```python\n# (.*?)```", mine, re.DOTALL):
        where, _, text = block.partition("\n")
        file, _, dictionary = where.partition(", in ")
        yield file, dictionary, text


def follow(heading, monkeypatch):
    """Take a walk: its new modules, functions and entries are there until `monkeypatch` is undone."""
    for file, dictionary, text in blocks(heading):
        name = file.removesuffix(".py").replace("/", ".")
        if dictionary:
            module = importlib.import_module(name)
            for key, entry in _entries(text, vars(module)).items():
                monkeypatch.setitem(getattr(module, dictionary), key, entry)
            continue
        if exists(file):  # what the block defines joins the module
            module = importlib.import_module(name)
            defined = dict(vars(module))
            exec(compile(text, file, "exec"), defined)
            for new in defined.keys() - vars(module).keys():
                monkeypatch.setattr(module, new, defined[new], raising=False)
        else:
            module = types.ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
            exec(compile(text, file, "exec"), vars(module))


def _entries(text, names):
    """Entries by their keys; `DISTANCES` takes a distance's from its function."""
    if text.startswith('"'):
        return eval(f"{{{text}}}", names)
    return {entry.function.__name__: entry for entry in eval(f"[{text}]", names)}


def exists(file):
    return (Path(__file__).parents[2] / file).exists()
