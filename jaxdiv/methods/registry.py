"""Which methods there are: what configuration, statistics, figures and words know of each. Imports no JAX."""

from dataclasses import dataclass

FAMILIES = ("pretraining", "maml")


@dataclass(frozen=True)
class Entry:
    """What is known of a method without running it.

    Attributes:
      family: one of FAMILIES: what it is compared as ("MAML against PT").
      label: its name as a reader sees it.
      inner_steps, first_order: of MAML's inner loop.
    """

    family: str
    label: str
    inner_steps: int = 0
    first_order: bool = True


METHODS = {  # in the study's order
    "pt": Entry("pretraining", "PT"),
    "fo_maml_5": Entry("maml", "FO-MAML 5 steps", 5),
    "fo_maml_10": Entry("maml", "FO-MAML 10 steps", 10),
    "ho_maml_5": Entry("maml", "HO-MAML 5 steps", 5, first_order=False),
    "ho_maml_10": Entry("maml", "HO-MAML 10 steps", 10, first_order=False),
}


def family(method: str) -> str:
    """A method's family; of a name that is not in METHODS, MAML's: another number of steps."""
    return METHODS[method].family if method in METHODS else "maml"


def label(method: str) -> str:
    """A method's name as a reader sees it; of one that is not in METHODS, its own."""
    return METHODS[method].label if method in METHODS else method


def family_label(name: str) -> str:
    """A family's name as a reader sees it: the label of its only method, or "MAML" of several; an unknown one's own."""
    labels = [known.label for known in METHODS.values() if known.family == name]
    return (labels[0] if len(labels) == 1 else name.upper()) if labels else name
