"""The figure of a run's account: its exits by reason and level."""

from __future__ import annotations

from nestvmm.report.figure import Dots, Figure, Point, Table
from nestvmm.report.figures import number
from nestvmm.report.inputs import AccountRow, RunAccount

__all__ = ["account_figure"]


def account_figure(account: RunAccount, key: str) -> Figure | None:
    """Counts by level, handler and reason; None: there were no exits."""
    sums: dict[tuple[int, str, str], list[float]] = {}
    for row in account.rows:
        if row.count > 0:
            _add(sums.setdefault((row.level, row.who, row.reason), [0, 0, 0]), row)
    if not sums:
        return None
    ordered = sorted(sums.items(), key=lambda item: (-item[0][0], -item[1][0], item[0]))
    names = tuple(f"L{level} {who}: {reason}" for (level, who, reason), _ in ordered)
    cells = tuple(
        (f"L{level}", who, reason, f"{count:,.0f}", f"{in_c:,.0f}", f"{ns / count / 1000:.2f}", f"{ns / 1e6:.3f}")
        for (level, who, reason), (count, in_c, ns) in ordered
    )
    by_level: dict[int, float] = {}
    for (level, _, _), (count, _, _) in ordered:
        by_level[level] = by_level.get(level, 0) + count
    all_of_them = sum(by_level.values())
    shares = ", ".join(f"L{level} {100 * count / all_of_them:.3g} %" for level, count in by_level.items())
    return Figure(
        f"run-{key}",
        "Exits by reason and level",
        f"Exits of L{account.height} by the handler and the reason, on a logarithmic axis: {number(all_of_them)} in "
        f"{account.seconds:.3f} s, of which {shares}.",
        Dots(
            "exits (logarithmic)",
            names,
            tuple(Point(0, count) for _, (count, _, _) in ordered),
            tuple(f"L{level}" for (level, _, _), _ in ordered),
        ),
        Table(("level", "handler", "reason", "exits", "in C", "mean us", "all ms"), cells, frozenset((3, 4, 5, 6))),
    )


def _add(sums: list[float], row: AccountRow) -> None:
    sums[0] += row.count
    sums[1] += row.in_c
    sums[2] += row.count * row.mean_ns
