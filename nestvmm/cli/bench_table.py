"""The result of a benchmark as tables for people, one for each case."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nestvmm.bench import Document, Row
from nestvmm.bench.depth import Depth
from nestvmm.bench.goals import verdicts
from nestvmm.bench.row import CASCADE, FLAT
from nestvmm.bench.twice import QEMU, Twice
from nestvmm.cli.console import PlainConsole

__all__ = ["depth_lines", "print_document", "twice_lines"]

# Room for all columns.
_WIDTH = 400
_COLUMNS = ("what", "minimum", "median", "95 %", "us", "ratio", "95 %", "to", "goal", "met", "runs", "outliers")
_LEFT = ("what", "to", "met", "exit")
# From here on, digits behind the point say nothing.
_PLAIN = 100
_DEPTH = Depth.name
_TWICE = ("exit", "guest", FLAT, CASCADE, QEMU, "flat to cascade", "flat to QEMU", "cascade to QEMU")
_MET = {True: "met", False: "missed", None: ""}


def print_document(document: Document, about: dict[str, str]) -> None:
    """Prints the tables to standard output.

    about: each case's line for people
    """
    console = PlainConsole(width=_WIDTH, least=_WIDTH)
    environment = document.environment
    clock = "TSC counts instructions" if environment.icount else f"TSC {environment.tsc_mhz:.0f} MHz"
    console.print(
        f"{environment.machine}: {environment.cpu}, {environment.cpus} CPUs, Linux {environment.kernel}, {clock}"
    )
    for case in dict.fromkeys(row.case for row in document.rows):
        rows = [row for row in document.rows if row.case == case]
        units = ", ".join(dict.fromkeys(row.unit for row in rows if row.runs))
        console.print(f"\n{case}: {about.get(case, '')}" + (f" [{units}]" if units else ""))
        console.print(_table(rows))
        if case == _DEPTH:
            _print_depth(console, rows)
        if case == Twice.name and any(row.runs for row in rows):
            console.print("\nmedians by the guest's level, above Linux's KVM")
            console.print(_columns(_TWICE, twice_lines(rows)))
        notes = {": ".join(part for part in (row.note, row.source) if part): row.what for row in rows}
        for note, what in notes.items():
            if note:
                console.print(f"   {what.partition(',')[0]}: {note}")
    _print_goals(console, document)
    console.print(f"{len(document.rows)} figures in {document.seconds:.0f} s")


def _print_goals(console: PlainConsole, document: Document) -> None:
    """Whether those that were measured are met; of several rows the worst counts."""
    judged = [(one.goal, one.worst) for one in verdicts(document.rows) if one.worst is not None]
    if judged:
        console.print("\ngoals")
        lines = [
            [f"{goal.case}: {goal.about}", f"<= {goal.most:.2f}", _ratio(worst.ratio), _MET[worst.met]]
            for goal, worst in judged
        ]
        console.print(_columns(("what", "goal", "worst ratio", "met"), lines))


def _table(rows: list[Row]) -> Table:
    return _columns(_COLUMNS, [_cells(row) for row in rows])


def _columns(headings: Sequence[str], lines: list[list[str]]) -> Table:
    """A table without the columns that say nothing."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    used = [number for number in range(len(headings)) if any(line[number] for line in lines)]
    for number in used:
        heading = headings[number]
        table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(line[number] for number in used))
    return table


def _print_depth(console: PlainConsole, rows: list[Row]) -> None:
    """Flat beside cascade, level by level."""
    measured = [row for row in rows if row.runs]
    for engine in dict.fromkeys(row.engine for row in measured):
        kinds = dict.fromkeys(_kind(row) for row in measured if row.engine == engine)
        headings = ("guest", *(text for kind in kinds for text in (f"{kind} flat", "cascade", "ratio")))
        console.print(f"\nmedians by the guest's level, {engine} engine")
        console.print(_columns(headings, depth_lines(measured, engine)))


def depth_lines(rows: list[Row], engine: str) -> list[list[str]]:
    """For each level: the level, then of each kind of exit its flat and its cascaded median, and the ratio."""
    rows = [row for row in rows if row.engine == engine]
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    found = {(row.level, _kind(row), row.mode): row for row in rows}
    nothing = Row(_DEPTH)
    lines = []
    for level in sorted({row.level for row in rows if row.level is not None}):
        line = [f"L{level}"]
        for kind in kinds:
            flat, cascade = (found.get((level, kind, mode), nothing) for mode in (FLAT, CASCADE))
            line += [_number(flat.median), _number(cascade.median), _ratio(cascade.ratio)]
        lines.append(line)
    return lines


def twice_lines(rows: list[Row]) -> list[list[str]]:
    """For each kind of exit and level: the medians flat, as a cascade and under QEMU, and their ratios."""
    lines = []
    for kind in dict.fromkeys(_kind(row) for row in rows if row.runs):
        for level in sorted({row.level for row in rows if _kind(row) == kind and row.level is not None}):
            named = {system: f"{kind}, L{level}, {system}" for system in (FLAT, CASCADE, QEMU)}
            medians = {row.what: row.median for row in rows}
            ratios = {(row.what, row.against): row.ratio for row in rows}
            line = [kind, f"L{level}", *(_number(medians.get(name)) for name in named.values())]
            pairs = ((FLAT, CASCADE), (FLAT, QEMU), (CASCADE, QEMU))
            lines.append(line + [_ratio(ratios.get((named[one], named[other]))) for one, other in pairs])
    return lines


def _kind(row: Row) -> str:
    return row.what.partition(",")[0]


def _cells(row: Row) -> list[str]:
    return [
        row.what,
        _number(row.minimum),
        _number(row.median),
        _interval(row.low, row.high),
        _number(row.microseconds(row.median)) if row.unit == "cycles" else "",
        _ratio(row.ratio),
        "" if row.ratio_low is None or row.ratio_high is None else f"{_ratio(row.ratio_low)}-{_ratio(row.ratio_high)}",
        row.against,
        "" if row.goal is None else f"<= {row.goal:.2f}",
        _MET[row.met],
        str(len(row.runs) or ""),
        str(len(row.outliers) or ""),
    ]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_number(low)}-{_number(high)}"


def _number(value: float | None) -> str:
    """Three digits at least."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= _PLAIN else f"{value:#.3g}"
