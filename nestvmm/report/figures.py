"""The figures of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Final

from nestvmm.bench import Document, Row
from nestvmm.bench.row import CASCADE, FLAT
from nestvmm.bench.twice import QEMU
from nestvmm.report.figure import Bars, Dots, Figure, Lines, Point, Series, Table

__all__ = ["bench_figures", "number"]

_DEPTH: Final = "depth"
_TWICE: Final = "twice"
_PARTS: Final = "parts"
_ROUND_TRIP: Final = "round-trip"
_PUBLISHED: Final = "published"
# Cases whose figures are exits, one beside the other.
_EXITS: Final = ("hypercall", "cpuid", "port", "msr-read", "msr-write", "mmio", "page-fault", "timer")
# What the benchmark's names say besides; the figure has the guest's clock only.
_CLOCK: Final = ", guest's clock"
# Who serves an exit, in the order of colours.
_HANDLERS: Final = ("C", "Python", "image", "KVM", "QEMU", "kvmtool")


def bench_figures(document: Document, key: str) -> list[Figure]:
    """Those that its rows have data for; key makes their names differ from another document's."""
    rows = [row for row in document.rows if row.median is not None and math.isfinite(row.median) and row.median > 0]
    unit = "instructions" if document.environment.icount else "cycles"
    others = (_parts(rows, key), _exits(rows, unit, key))
    return [*_by_depth(rows, unit, key), *(figure for figure in others if figure is not None)]


def number(value: float | None) -> str:
    """A figure for people: three significant digits, thousands set apart."""
    if value is None or not math.isfinite(value):
        return ""
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _by_depth(rows: Sequence[Row], unit: str, key: str) -> Iterator[Figure]:
    """One for each kind of exit: lines of several kinds would hide each other."""
    kinds: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        kind, name = _place(row)
        if kind and row.level is not None:
            kinds.setdefault(kind, {}).setdefault(name, []).append(row)
    for kind, lines in kinds.items():
        grouped = {name: _by_level(found) for name, found in lines.items() if len({row.level for row in found}) > 1}
        if all(row.system == _PUBLISHED for line in grouped.values() for row in line.values()):
            continue
        levels = sorted({level for line in grouped.values() for level in line})
        cells = tuple(
            (name, *(number(line[level].median) if level in line else "" for level in levels))
            for name, line in grouped.items()
        )
        yield Figure(
            f"depth-{kind.replace(' ', '-')}-{key}",
            f"Cost by depth: {kind}",
            f"{unit.capitalize()} of an exit by the guest's level, on a logarithmic axis. {_growth(grouped)}",
            Lines("level of the guest", f"{unit} (logarithmic)", tuple(starmap(_line, grouped.items()))),
            Table((unit, *(f"L{level}" for level in levels)), cells, frozenset(range(1, len(levels) + 1))),
        )


def _by_level(rows: Iterable[Row]) -> dict[int, Row]:
    """A line's rows; one that was compared with several others once."""
    found = {row.level or 0: row for row in rows}
    return dict(sorted(found.items()))


def _place(row: Row) -> tuple[str, str]:
    """The kind of exit whose figure it is in, and the line that it belongs to; empty: none."""
    kind = row.what.partition(",")[0]
    if row.system == _PUBLISHED:
        return row.case, "KVM in KVM, another machine's cycles"
    if row.case == _DEPTH:
        return kind, f"{row.engine}, {row.mode}"
    if row.case == _TWICE:
        return f"{kind} above KVM", f"QEMU, {row.mode}" if row.system == QEMU else f"{row.engine}, {row.mode}"
    if row.case == _ROUND_TRIP and row.handler == "Python" and row.handler_level == (row.level or 0) - 1:
        return _ROUND_TRIP, f"port read, {row.engine}, Python below the guest"
    return "", ""


def _line(name: str, rows: dict[int, Row]) -> Series:
    points = tuple(Point(level, row.median or 0, row.low, row.high) for level, row in rows.items())
    return Series(name, points, dashed=any(row.system == _PUBLISHED for row in rows.values()))


def _growth(lines: Mapping[str, dict[int, Row]]) -> str:
    """From the least level to the greatest where the same serves the exit; then what is the most, there."""
    said = []
    for name, line in lines.items():
        last = max(line)
        first = min(level for level, row in line.items() if row.handler == line[last].handler)
        low, high = line[first].median or 0, line[last].median or 0
        said.append(f"{name}: {number(low)} at L{first}, {number(high)} at L{last}, which is {_times(high, low)} that")
    return "; ".join(said + list(_cascades(lines))) + "."


def _cascades(lines: Mapping[str, dict[int, Row]]) -> Iterator[str]:
    """What flat saves, where both were measured."""
    for name, line in lines.items():
        flat = lines.get(name.replace(CASCADE, FLAT), {})
        both = line.keys() & flat.keys()
        if name.endswith(CASCADE) and both:
            level = max(both)
            times = _times(line[level].median or 0, flat[level].median or 0)
            yield f"at L{level}, {name} is {times} flat"


def _times(one: float, other: float) -> str:
    return f"{one / other:.2f} times" if one < 10 * other else f"{one / other:,.0f} times"


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


def _exits(rows: Iterable[Row], unit: str, key: str) -> Figure | None:
    mine = [row for row in rows if row.case in _EXITS and row.clock == "guest" and row.system != _PUBLISHED]
    mine.sort(key=lambda row: _EXITS.index(row.case))
    if not mine:
        return None
    label: Callable[[Row], str] = lambda row: f"{row.case}: {row.what.removesuffix(_CLOCK)}"  # noqa: E731
    cells = tuple(
        (
            label(row),
            row.handler,
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
        f"{unit.capitalize()} from the exit's instruction to the one behind it, by the guest's own clock, on a "
        f"logarithmic axis: from {number(least.median)} ({label(least)}) to {number(most.median)} ({label(most)}).",
        Dots(
            f"{unit} (logarithmic)",
            tuple(label(row) for row in mine),
            tuple(Point(0, row.median or 0, row.low, row.high) for row in mine),
            tuple(row.handler for row in mine),
            _HANDLERS,
        ),
        Table(("exit", "handler", "minimum", "median", "95 %", "runs"), cells, frozenset((2, 3, 4, 5))),
    )


def _interval(row: Row) -> str:
    return "" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"
