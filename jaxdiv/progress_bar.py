"""A progress bar where somebody can see it: in a terminal and in a notebook, and nothing in a log or a pipe."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(
    label: str, progress: Callable[[Any], None] | None = None, total: int | None = None
) -> Iterator[Callable[[Any], None]]:
    """`with bar("embedding tasks", total=50) as report: report(1)`: a bar on stderr, or in a notebook's output.

    Args:
      label: what is under way.
      progress: is called instead, and no bar is shown.
      total: the number that `report` counts up to, shown beside the bar; None: `report` takes the share done, 0..1.
    """
    if progress is not None:
        yield progress
        return
    if not (notebook := _in_notebook()) and not (sys.stderr and sys.stderr.isatty()):
        yield lambda done: None
        return
    with warnings.catch_warnings():  # without ipywidgets a notebook gets the terminal's bar: no reason for a warning
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    counts = "{n_fmt}/{total_fmt} " if total else ""
    form = "{l_bar}{bar}| " + counts + "[{elapsed}<{remaining}]"
    with tqdm(
        desc=f"{label} (starting)",
        total=total or 1.0,
        bar_format=form,
        dynamic_ncols=True,
        file=sys.stdout if notebook else sys.stderr,  # a notebook paints stderr red
    ) as shown:

        def report(done: float) -> None:
            if not shown.n:  # until now it connected, or compiled
                shown.set_description(label, refresh=False)
            shown.update(done - shown.n)  # tqdm takes steps

        yield report


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel, whose stderr calls itself no terminal and is shown all the same."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
