"""The terminal, which no name from a data set may steer."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from jaxdiv.errors import visible


class Terminal(Console):
    """rich's console, with control characters in whatever is shown as escapes: file and class names are others'."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
