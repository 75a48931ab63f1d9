"""What of a study is not finished yet, as a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdiv.report.renderers import Column, Table
from jaxdiv.report.tables import BENCHMARK
from jaxdiv.report.wording import method_name


def unfinished_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What of a study is not finished. rows: as `unfinished` of `report.write_report`."""
    names = [name for name in (rows[0] if rows else ()) if name != "benchmark"]

    def cell(name: str) -> Callable[[Any], str]:
        def text(row: Any) -> str:
            done, of = row[name]
            return "done" if done == of else "unfinished" if not done else f"unfinished: {done} of {of}"

        return text

    heading = lambda name: name if name == "diversity" else method_name(name)
    columns = [BENCHMARK, *(Column(heading(name), cell(name), number=False) for name in names)]
    records = [{"benchmark": row["benchmark"], **{name: cell(name)(row) for name in names}} for row in rows]
    text = "What is not finished is missing from everything else here."
    return Table("unfinished", "What is finished", text, columns, rows, records, ["benchmark", *names])
