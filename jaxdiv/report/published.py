"""The values of "Exploring the Efficacy of Meta-Learning: Unveiling Superior Data Diversity Utilization of MAML Over
Pre-training", shown beside this project's tables where both were measured alike."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from jaxdiv.stats.rows import Point

# Table 1: diversity coefficient and half-width of its 95% interval, train split.
PAPER_TABLE1: dict[str, dict[str, tuple[float, float]]] = {
    "CIFAR-FS": {"resnet18": (0.106, 0.00166), "resnet34": (0.0890, 0.00199)},
    "FC100": {"resnet18": (0.107, 0.00149), "resnet34": (0.0903, 0.00389)},
    "Aircraft": {"resnet18": (0.110, 0.00127), "resnet34": (0.0932, 0.00109)},
    "Flower": {"resnet18": (0.138, 0.00288), "resnet34": (0.117, 0.00234)},
    "DTD": {"resnet18": (0.129, 0.00227), "resnet34": (0.111, 0.00228)},
    "CUBirds": {"resnet18": (0.120, 0.00161), "resnet34": (0.104, 0.00149)},
    "Omniglot": {"resnet18": (0.159, 0.00472), "resnet34": (0.136, 0.00421)},
    # Equals the group's own Mini-ImageNet value, not its Mini-ImageNet + Omniglot one (.216): probably
    # mislabelled.
    "MIO": {"resnet18": (0.1191, 0.0015), "resnet34": (0.1013, 0.00122)},
    "hdb7-afto": {"resnet18": (0.171, 0.01435), "resnet34": (0.148, 0.01179)},
    "hdb8-cado": {"resnet18": (0.174, 0.01), "resnet34": (0.155, 0.00845)},
    "hdb9-cavdo": {"resnet18": (0.180, 0.0092), "resnet34": (0.143, 0.00844)},
    "hdb10-micova": {"resnet18": (0.171, 0.0101), "resnet34": (0.144, 0.00766)},
}
# Table 2: R² over the 12 benchmarks above. Which test set they were taken on is not said.
PAPER_TABLE2: dict[str, dict[str, float]] = {
    "pt": {"accuracy": 0.149, "loss": 0.137},
    "fo_maml_5": {"accuracy": 0.168, "loss": 0.184},
    "fo_maml_10": {"accuracy": 0.152, "loss": 0.174},
    "ho_maml_5": {"accuracy": 0.398, "loss": 0.074},
    "ho_maml_10": {"accuracy": 0.416, "loss": 0.203},
}
PAPER_BENCHMARKS = len(PAPER_TABLE1)
PAPER_CLAIM = ("ho_maml_10", "pt")  # whose R² the paper says is above whose
# How the paper's diversity was measured, by the names of this project's settings: as it says, or as its code did.
PAPER_MEASURED: dict[str, Any] = {
    "estimator": "reference",
    "head": "adam",
    "distance": "task2vec",
    "interval": "iid_pairs",
    "augment": True,
    "pixels": 84,
    "ways": 5,
    "shots": 5,
    "queries": 15,
}
# Its probes, and torchvision's file of each one's ImageNet weights.
_PROBES = {"resnet18": "resnet18-f37072fd", "resnet34": "resnet34-b627a593"}
# And how its R² came about: the learner of every benchmark.
PAPER_TRAINED: dict[str, Any] = {"net": "resnet12", "pixels": 84}
_PAPER_ALIASES = {
    "flowers": "flower",
    "vggflower": "flower",
    "vggflowers": "flower",
    "flowers102": "flower",
    "cub": "cubirds",
    "cub200": "cubirds",
    "cub2002011": "cubirds",
    "fgvcaircraft": "aircraft",
    "hdb1": "mio",
    "hdb1mio": "mio",
}


def _plain(name: str) -> str:
    bare = "".join(c for c in name.lower() if c.isalnum())
    return _PAPER_ALIASES.get(bare, bare)


def paper_diversity(benchmark: str, probe: str) -> tuple[float, float] | None:
    """The published diversity of a benchmark (in any spelling) and probe, and its half-width; or None."""
    for name, values in PAPER_TABLE1.items():
        if _plain(name) == _plain(benchmark):
            return values.get(_plain(probe))
    return None


def measured_alike(row: Mapping[str, Any]) -> bool:
    """Whether a row of Table 1 may have the paper's value of its name beside it: it was measured as the paper's were,
    and it is not of a user's own images (`own`), whose name says nothing."""
    return not row.get("own") and not unlike(row)


def unlike(row: Mapping[str, Any]) -> list[str]:
    """What the paper's Table 1 was measured with that `row` of ours was not: "estimator reference (here exact)".

    What a row does not say is taken as different.
    """
    reasons = []
    for key, theirs in PAPER_MEASURED.items():
        if (ours := row.get(key)) != theirs:
            here = "unknown" if ours is None else ours
            words = {"augment": "augmented tasks (here not)", "pixels": f"{theirs} px (here {here})"}
            reasons.append(words.get(key, f"{key} {theirs} (here {here})"))
    probe, weights = row.get("probe"), str(row.get("weights") or "random")
    if probe not in _PROBES:
        reasons.append(f"probe {' or '.join(_PROBES)} (here {probe})")
    # A file with torchvision's own name is torchvision's: its hash, which is part of the name, is checked.
    elif weights != "imagenet" and PurePath(weights).stem != _PROBES[probe]:
        reasons.append(f"torchvision's ImageNet weights (here {weights}; torchvision's file is {_PROBES[probe]}.pth)")
    return reasons


def r2_measured_alike(diversity: Iterable[Mapping[str, Any]], points: Iterable[Point]) -> bool:
    """Whether a study's R² may stand beside the paper's: over benchmarks of the paper's only, whose diversity was
    measured as the paper's (rows of Table 1), of learners like the paper's (points)."""
    diversity, points = list(diversity), list(points)
    theirs = [measured_alike(row) and paper_diversity(row["benchmark"], row["probe"]) is not None for row in diversity]
    trained = [all(getattr(point, key) == value for key, value in PAPER_TRAINED.items()) for point in points]
    return bool(theirs and trained) and all(theirs) and all(trained)
