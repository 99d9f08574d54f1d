"""Sets of addresses as spans: (first, last), both included; ascending and disjoint in every result."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Span", "minus", "union"]

Span = tuple[int, int]


def union(spans: Iterable[Span]) -> list[Span]:
    """All addresses of these spans; neighbours become one."""
    joined: list[Span] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def minus(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The addresses of the first that are not among the others."""
    left = union(spans)
    for first, last in others:
        pieces = [((low, min(high, first - 1)), (max(low, last + 1), high)) for low, high in left]
        left = [(low, high) for pair in pieces for low, high in pair if low <= high]
    return left
