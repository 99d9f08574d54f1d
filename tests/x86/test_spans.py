"""Spans against sets of addresses."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nestvmm.x86.spans import Span, minus, union

SPANS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6
)


def addresses(spans: list[Span]) -> set[int]:
    return {address for first, last in spans for address in range(first, last + 1)}


def ascending(spans: list[Span]) -> bool:
    return all(first <= last for first, last in spans) and all(one[1] < two[0] for one, two in pairwise(spans))


@given(SPANS)
def test_union(spans: list[Span]) -> None:
    joined = union(spans)
    assert addresses(joined) == addresses(spans)
    assert all(one[1] + 1 < two[0] for one, two in pairwise(joined)), "neighbours are one"


@given(SPANS, SPANS)
def test_minus(spans: list[Span], others: list[Span]) -> None:
    left = minus(spans, others)
    assert addresses(left) == addresses(spans) - addresses(others)
    assert ascending(left)
