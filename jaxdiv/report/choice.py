"""A choice of classes by diversity: its sentence, its list, and the curve of what the choice gains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxdiv.report.columns import between_column, count_column, value_column, words_column
from jaxdiv.report.plotting import INK, Figure, Rendered, render
from jaxdiv.report.renderers import Table
from jaxdiv.report.wording import distance_name, distance_text, listed, short
from jaxdiv.task2vec.classes import Gain

_BLUE, _GREY = "#0072B2", "#777777"
_DIGITS = 3
_WORTH = ("diversity", "random", "random_low", "random_high", "gain", "gain_low", "gain_high")


class Choice(NamedTuple):
    """What was chosen.

    pool, have: the benchmarks that it is from and that it adds to (empty: none). goal: "most" or "least" diverse.
    candidates: classes of the pool. classes, datasets: the chosen ones in their order, and the data set of each. gains:
    for each number of classes for which there is a distance.
    """

    pool: str
    have: str
    goal: str
    distance: str
    candidates: int
    classes: Sequence[str]
    datasets: Sequence[str]
    gains: Sequence[Gain]


def choice_sentences(found: Choice) -> list[str]:
    """What the choice is worth, and whether random classes could be worth as much."""
    last, count = found.gains[-1], len(found.classes)
    pool, have = (listed(name.split("+")) for name in (found.pool, found.have))
    numbers = (last.diversity, last.random, last.random_low, last.random_high)
    value, random, low, high = (short(number, _DIGITS) for number in numbers)
    value += " (mean distance of two classes)"
    of_random = f"{random} (95%: {low} to {high})"
    if found.have:
        adds = "most" if found.goal == "most" else "least"
        which = f"{have} and the {_classes(count)} of {pool} that add {adds} diversity have"
        begin = found.gains[0]
        alone = f"; {have} alone {short(begin.diversity, _DIGITS)}" if begin.classes == 0 else ""
        text = f"Together, {which} a diversity of {value}; with {count} random ones {of_random}{alone}"
    else:
        which = f"The {count} {found.goal} diverse of the {found.candidates} classes of {pool} have"
        text = f"{which} a diversity of {value}; {count} random ones {of_random}"
    text += ", measured on images that the choice did not see."
    if last.random_low <= last.diversity <= last.random_high:
        text += " A random choice may well do the same."
    return [text]


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def choice_title(found: Choice) -> str:
    """The page's."""
    return f"A choice of {_classes(len(found.classes))} from {listed(found.pool.split('+'))}"


def choice_table(found: Choice) -> Table:
    """The chosen classes in their order, with what the first k are worth."""
    gains = {gain.classes: gain for gain in found.gains}
    rows = [
        {"rank": rank, "class": name, "data_set": of_set, **(_worth(gains[rank]) if rank in gains else {})}
        for rank, (name, of_set) in enumerate(zip(found.classes, found.datasets, strict=True), 1)
    ]
    columns = [
        count_column("rank", "rank"),
        words_column("class", "class"),
        words_column("data set", "data_set"),
        value_column("diversity", "diversity", _DIGITS),
        value_column("random", "random", _DIGITS),
        between_column("95% of random", "random_low", "random_high", _DIGITS),
        value_column("gain", "gain", _DIGITS),
    ]
    text = (
        "In the order of choice: the first k are the choice of k classes. Diversity, of these k"
        f"{' and ' + listed(found.have.split('+')) if found.have else ''}: the mean distance of two classes "
        f"({distance_text(found.distance)}). It is measured on one half of the images after a choice by the other, and "
        "the reverse, while the list itself uses all images. Random: 1,000 sets of as many classes of the pool, their "
        "mean and the range of 95% of them."
    )
    return Table("choice", "The classes", text, columns, rows, rows, ("rank", "class", "data_set", *_WORTH))


def _worth(gain: Gain) -> dict[str, float]:
    random = gain.random, gain.random_low, gain.random_high
    more = (gain.diversity - value for value in (gain.random, gain.random_high, gain.random_low))
    return dict(zip(_WORTH, (gain.diversity, *random, *more), strict=True))


def draw_choice(found: Choice) -> Rendered:
    """The diversity of the first k classes, and of k random ones, against k."""
    with_have = f" and {listed(found.have.split('+'))}" if found.have else ""
    labels = (f"classes chosen from {listed(found.pool.split('+'))}", f"diversity of these{with_have}")
    foot = [f"Diversity: mean {distance_name(found.distance)} of two classes, on images that the choice did not see"]
    return render(Figure("choice", [[lambda ax: _curve(ax, found)]], (6.2, 4.0), 0.5, [labels], foot))


def _curve(ax: Any, found: Choice) -> None:
    at = [gain.classes for gain in found.gains]
    low, high = ([getattr(gain, end) for gain in found.gains] for end in ("random_low", "random_high"))
    ax.fill_between(at, low, high, color=_GREY, alpha=0.22, linewidth=0, label="95% of random choices")
    ax.plot(at, [gain.random for gain in found.gains], color=_GREY, linestyle=(0, (5, 1.5)), label="random, mean")
    ax.set_title(f"what choosing the {found.goal} diverse gains over a random choice", loc="left", y=1.0)
    marker = "o" if len(at) <= 40 else ""
    label = f"{found.goal} diverse"
    ax.plot(at, [gain.diversity for gain in found.gains], color=_BLUE, marker=marker, markersize=3.5, label=label)
    ax.locator_params(axis="x", integer=True)
    ax.legend(fontsize=8, framealpha=0.92, edgecolor="none", labelcolor=INK)
