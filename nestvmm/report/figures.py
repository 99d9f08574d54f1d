"""The figures of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from nestvmm.bench import Document, Row
from nestvmm.report.figure import Bars, Dots, Figure, Lines, Point, Series, Table

__all__ = ["bench_figures", "number"]

_DEPTH: Final = "depth"
_PARTS: Final = "parts"
_ROUND_TRIP: Final = "round-trip"
_PUBLISHED: Final = "published"
# Cases whose figures are exits, one beside the other.
_EXITS: Final = ("hypercall", "cpuid", "port", "msr-read", "msr-write", "mmio", "page-fault", "timer")


# What the benchmark's names say besides; the figure has the guest's clock only.
_CLOCK: Final = ", guest's clock"
# Who serves an exit, in the order of colours.
_HANDLERS: Final = ("C", "Python", "image", "KVM", "QEMU", "nobody")


def bench_figures(document: Document, key: str) -> list[Figure]:
    """Those that its rows have data for; key makes their names differ from another document's."""
    rows = [row for row in document.rows if row.median is not None and math.isfinite(row.median) and row.median > 0]
    found = [_by_depth(rows, document, key), _parts(rows, key), _exits(rows, key)]
    return [figure for figure in found if figure is not None]


def number(value: float | None) -> str:
    """A figure for people: three significant digits, thousands set apart."""
    if value is None or not math.isfinite(value):
        return ""
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _by_depth(rows: Sequence[Row], document: Document, key: str) -> Figure | None:
    series = [line for line in map(_line, _depth_groups(rows).items()) if len(line.points) > 1]
    if not any(not line.dashed for line in series):
        return None
    levels = sorted({int(point.x) for line in series for point in line.points})
    values = {line.name: {int(point.x): point.y for point in line.points} for line in series}
    cells = tuple((line.name, *(number(values[line.name].get(level)) for level in levels)) for line in series)
    unit = "instructions" if document.environment.icount else "cycles"
    return Figure(
        f"depth-{key}",
        "Cost of an exit by depth",
        f"{unit.capitalize()} of an exit by the guest's level, on a logarithmic axis. {_growth(series)}",
        Lines("level of the guest", f"{unit} (logarithmic)", tuple(series)),
        Table((unit, *(f"L{level}" for level in levels)), cells, frozenset(range(1, len(levels) + 1))),
    )


def _depth_groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        name = _depth_name(row)
        if name and row.level is not None:
            groups.setdefault(name, []).append(row)
    return groups


def _depth_name(row: Row) -> str:
    """The line that it belongs to; empty: none."""
    if row.system == _PUBLISHED:
        return f"{row.case}, KVM in KVM, {_PUBLISHED}"
    if row.case == _DEPTH:
        kind = row.what.partition(",")[0]
        return f"{kind}, {row.engine}, {row.mode}"
    if row.case == _ROUND_TRIP and row.handler == "Python" and row.handler_level == (row.level or 0) - 1:
        return f"port read, {row.engine}, Python below the guest"
    return ""


def _line(group: tuple[str, list[Row]]) -> Series:
    name, rows = group
    ordered = sorted(rows, key=lambda row: row.level or 0)
    points = tuple(Point(row.level or 0, row.median or 0, row.low, row.high) for row in ordered)
    return Series(name, points, dashed=rows[0].system == _PUBLISHED)


def _growth(series: Iterable[Series]) -> str:
    said = []
    for line in series:
        first, last = line.points[0], line.points[-1]
        times = f"{last.y / first.y:.2f} times" if last.y < 10 * first.y else f"{last.y / first.y:,.0f} times"
        ends = f"{number(first.y)} at L{first.x:.0f}, {number(last.y)} at L{last.x:.0f}"
        said.append(f"{line.name}: {ends}, which is {times} that")
    return "; ".join(said) + "."


def _parts(rows: Iterable[Row], key: str) -> Figure | None:
    mine = [row for row in rows if row.case == _PARTS]
    if not mine:
        return None
    parts = list(dict.fromkeys(row.what.partition(",")[0] for row in mine))
    names = list(dict.fromkeys(f"{row.engine}, {row.handler}" for row in mine))
    found = {(f"{row.engine}, {row.handler}", row.what.partition(",")[0]): row.median or 0.0 for row in mine}
    values = [tuple(found.get((name, part), 0.0) for name in names) for part in parts]
    totals = [sum(column) for column in zip(*values, strict=True)]
    cells = tuple(
        (name, *(number(found.get((name, part))) for part in parts), number(total))
        for name, total in zip(names, totals, strict=True)
    )
    first = max(zip(parts, (value[0] for value in values), strict=True), key=lambda pair: pair[1])
    return Figure(
        f"parts-{key}",
        "Parts of an exit",
        "Where the time of an exit goes: the world switch to KVM and the guest and back, L0's decoding and routing, "
        "the handler, and giving its answer to the guest, by engine and handler, in microseconds. The largest part of "
        f"{names[0]} is the {first[0]}: {number(first[1])} of {number(totals[0])}.",
        Bars("us", tuple(names), tuple(zip(parts, values, strict=True))),
        Table(("us", *parts, "all"), cells, frozenset(range(1, len(parts) + 2))),
    )


def _exits(rows: Iterable[Row], key: str) -> Figure | None:
    mine = [row for row in rows if row.case in _EXITS and row.clock == "guest" and row.system != _PUBLISHED]
    if not mine:
        return None
    label: Callable[[Row], str] = lambda row: f"{row.case}: {row.what.removesuffix(_CLOCK)}"  # noqa: E731
    cells = tuple(
        (
            label(row),
            row.handler or "nobody",
            number(row.minimum),
            number(row.median),
            _interval(row),
            str(len(row.runs)),
        )
        for row in mine
    )
    least, most = min(mine, key=lambda row: row.median or 0), max(mine, key=lambda row: row.median or 0)
    return Figure(
        f"exits-{key}",
        "Cost of each kind of exit",
        f"Cycles from the instruction to the one behind it, by the guest's own clock, on a logarithmic axis: from "
        f"{number(least.median)} ({label(least)}) to {number(most.median)} ({label(most)}).",
        Dots(
            "cycles (logarithmic)",
            tuple(label(row) for row in mine),
            tuple(Point(0, row.median or 0, row.low, row.high) for row in mine),
            tuple(row.handler or "nobody" for row in mine),
            _HANDLERS,
        ),
        Table(("exit", "handler", "minimum", "median", "95 %", "runs"), cells, frozenset((2, 3, 4, 5))),
    )


def _interval(row: Row) -> str:
    return "" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"
