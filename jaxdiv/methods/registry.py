"""Which methods there are: what configuration, statistics, figures and words know of each. Imports no JAX.

A method is one file, with a `base.Method` in it, and one line in METHODS.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxdiv.errors import unknown


@dataclass(frozen=True)
class Entry:
    """What is known of a method without running it.

    Attributes:
      family: what it is compared as ("MAML against PT"): one that METHODS has, or a new one.
      label: its name as a reader sees it.
      path: the class of its values, "module:Class", imported when it is first needed.
      section: the configuration's section that holds its settings.
      fields: of its value, those that its name says.
    """

    family: str
    label: str
    path: str
    section: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def _maml(order: str, steps: int) -> Entry:
    fields = {"inner_steps": steps, "first_order": order == "fo"}
    return Entry("maml", f"{order.upper()}-MAML {steps} steps", "jaxdiv.methods.maml:MAML", "maml", fields)


METHODS = {  # in the study's order
    "pt": Entry("pretraining", "PT", "jaxdiv.methods.pretrain:PreTraining", "pt"),
    "fo_maml_5": _maml("fo", 5),
    "fo_maml_10": _maml("fo", 10),
    "ho_maml_5": _maml("ho", 5),
    "ho_maml_10": _maml("ho", 10),
    "protonet": Entry("prototypes", "ProtoNet", "jaxdiv.methods.protonet:ProtoNet", "protonet"),
}
_MAML = re.compile(r"(fo|ho)_maml_(\d+)")


def entry(method: str) -> Entry:
    """What is known of a method: one of METHODS, or MAML with any other number of steps ("ho_maml_3").

    Raises:
      InputError: another name.
    """
    if found := _find(method):
        return found
    raise unknown("method", method, METHODS)


def sections() -> tuple[str, ...]:
    """The configuration's sections of methods, each once."""
    return tuple(dict.fromkeys(entry.section for entry in METHODS.values()))


def family(method: str) -> str:
    """A method's family; of a name that is no method's, the name itself, so that it counts as nothing else."""
    found = _find(method)
    return found.family if found else method


def label(method: str) -> str:
    """A method's name as a reader sees it; of a name that is no method's, the name itself."""
    found = _find(method)
    return found.label if found else method


def with_inner_steps(method: str, steps: int) -> str:
    """The MAML method of the same order with another number of inner steps."""
    return f"{method.rpartition('_')[0]}_{steps}"


def _find(method: str) -> Entry | None:
    maml = _MAML.fullmatch(method)
    return METHODS.get(method) or (_maml(maml[1], int(maml[2])) if maml else None)


def family_label(name: str) -> str:
    """A family's name as a reader sees it: the label of its only method, or "MAML" of several; an unknown one's own."""
    labels = [known.label for known in METHODS.values() if known.family == name]
    return (labels[0] if len(labels) == 1 else name.upper()) if labels else name
