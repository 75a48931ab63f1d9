"""What the terminal shows of names that others chose."""

import io

from rich.table import Table

from jaxdiv.study.terminal import Terminal


def test_an_escape_sequence_of_a_class_name_is_shown_and_never_sent():
    out = io.StringIO()
    terminal = Terminal(file=out, width=60, force_terminal=True, color_system="truecolor")
    name = "cat\x1b]0;mine\x07\x1b[2J"
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name, style="red")
    for shown in (name, table):
        terminal.print(shown, markup=False, highlight=False)
    said = out.getvalue()
    assert "\x1b]" not in said and "\x1b[2J" not in said and "\x07" not in said
    assert r"cat\x1b]0;mine" in said and "\x1b[31m" in said  # rich's own colours stay
