"""Whether the goals are met: in all benchmarks together, and row by row in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nestvmm.bench import Document
from nestvmm.bench.goals import Verdict, verdicts
from nestvmm.report.figure import Table
from nestvmm.report.tables import folded, table_of

__all__ = ["goals_of_all", "goals_of_one"]

_RESULTS: Final = {True: "met", False: "missed"}


def goals_of_all(documents: Sequence[tuple[str, Document]]) -> str:
    """Each goal, with its worst ratio in each benchmark."""
    judged = [verdicts(document.rows) for _, document in documents]
    rows = tuple(
        (line[0].goal.about, f"{line[0].goal.most:.2f}", *map(_said, line), line[0].goal.command)
        for line in zip(*judged, strict=True)
    )
    machines = (f"{document.environment.machine} ({name})" for name, document in documents)
    head = ("ratio", "at most", *machines, "measured by")
    return table_of(Table(head, rows, frozenset((1,))), "the worst of each goal's ratios", "goals")


def _said(verdict: Verdict) -> str:
    row = verdict.worst
    return "not judged" if row is None or row.ratio is None else f"{row.ratio:.3f}, {_RESULTS[row.met is True]}"


def goals_of_one(document: Document) -> str:
    """Every ratio that has a goal; empty: there is none."""
    rows = tuple(
        (
            f"{row.case}: {row.what}",
            row.against,
            f"{row.ratio:.3f}",
            "" if row.ratio_low is None or row.ratio_high is None else f"{row.ratio_low:.3f} to {row.ratio_high:.3f}",
            f"at most {row.goal:.2f}",
            _RESULTS[row.met is True],
        )
        for row in document.rows
        if row.goal is not None and row.ratio is not None
    )
    if not rows:
        return ""
    met = sum(row[-1] == _RESULTS[True] for row in rows)
    head = ("what", "against", "ratio", "95 %", "goal", "result")
    return folded(
        f"{met} of {len(rows)} ratios are within their goals",
        table_of(Table(head, rows, frozenset((2, 3, 4))), "goals", "ratios and goals"),
    )
