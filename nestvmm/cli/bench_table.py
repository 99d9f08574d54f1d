"""The result of a benchmark as tables for people, one for each case."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from nestvmm.bench import Document, Row

__all__ = ["print_document"]

# For a file or a pipe, where rich would take 80.
_WIDTH = 150
_COLUMNS = (
    ("what", "left"),
    ("engine", "left"),
    ("guest", "left"),
    ("served by", "left"),
    ("clock", "left"),
    ("minimum", "right"),
    ("median", "right"),
    ("95 % of the median", "right"),
    ("us", "right"),
    ("ratio", "right"),
    ("95 %", "right"),
    ("goal", "right"),
    ("runs", "right"),
)
_MET = {True: "met", False: "missed"}


def print_document(document: Document, about: dict[str, str]) -> None:
    """Prints the tables to standard output.

    about: each case's line for people
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    environment = document.environment
    clock = "TSC counts instructions" if environment.icount else f"TSC {environment.tsc_mhz:.0f} MHz"
    console.print(
        f"{environment.machine}: {environment.cpu}, {environment.cpus} CPUs, Linux {environment.kernel}, {clock}"
    )
    for case in dict.fromkeys(row.case for row in document.rows):
        rows = [row for row in document.rows if row.case == case]
        console.print(_table(f"{case}: {about.get(case, '')}", rows))
        for row in rows:
            if row.note or row.source:
                console.print(f"   {row.what}: {': '.join(part for part in (row.note, row.source) if part)}")
    console.print(f"{len(document.rows)} figures in {document.seconds:.0f} s")


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    cells = [_cells(row) for row in rows]
    for number, (heading, justify) in enumerate(_COLUMNS):
        if any(line[number] for line in cells):
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    used = [number for number in range(len(_COLUMNS)) if any(line[number] for line in cells)]
    for line in cells:
        table.add_row(*(line[number] for number in used))
    return table


def _cells(row: Row) -> list[str]:
    ratio = "" if row.ratio is None else f"{row.ratio:.3f} {row.against}"
    met = "" if row.goal is None or row.met is None else f"<= {row.goal:.2f} {_MET[row.met]}"
    return [
        row.what,
        row.engine,
        "" if row.level is None else f"L{row.level}",
        "" if row.handler_level is None else f"{row.handler} L{row.handler_level}".strip(),
        row.clock,
        _number(row.minimum),
        "" if row.median is None else f"{_number(row.median)} {row.unit}",
        _interval(row.low, row.high),
        "" if row.unit == "us" else _number(row.microseconds(row.median)),
        ratio,
        "" if row.ratio_low is None or row.ratio_high is None else f"{row.ratio_low:.3f}-{row.ratio_high:.3f}",
        met,
        f"{len(row.runs)}" + (f", {len(row.outliers)} out" if row.outliers else ""),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_number(low)}-{_number(high)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
