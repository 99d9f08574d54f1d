"""The flat table's look-up against a search through a list."""

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm._native import ffi, lib

TOP = (1 << 64) - 1


class Range(NamedTuple):
    first: int
    last: int
    claim: int


class Table:
    """An nv_table, and what keeps its arrays alive."""

    def __init__(self) -> None:
        self.ports = [ffi.new("uint16_t[]", lib.NV_PORTS) for _ in range(2)]
        self.native = ffi.new("struct nv_table *", {"ports": self.ports})
        self._ranges: list[Any] = []

    def set_ranges(self, reason: int, direction: int, ranges: list[Range]) -> None:
        array = ffi.new("struct nv_range[]", [{"first": r.first, "last": r.last, "claim": r.claim} for r in ranges])
        self._ranges.append(array)
        self.native.ranges[reason][direction] = {"range": array, "count": len(ranges)}

    def lookup(self, reason: int, direction: int, qualifier: int) -> int:
        fields = {"reason": reason, "direction": direction, "qualifier": qualifier}
        return int(lib.nv_table_lookup(self.native, ffi.new("struct nv_event *", fields)))


def test_ports_by_direction() -> None:
    table = Table()
    table.ports[0][0x3F8] = 7
    table.ports[1][0xFFFF] = 65535
    assert table.lookup(lib.NV_REASON_IO, lib.NV_READ, 0x3F8) == 7
    assert table.lookup(lib.NV_REASON_IO, lib.NV_WRITE, 0x3F8) == 0
    assert table.lookup(lib.NV_REASON_IO, lib.NV_WRITE, 0xFFFF) == 65535
    assert table.lookup(lib.NV_REASON_IO, lib.NV_READ, 0x3F9) == 0


def test_a_port_beyond_the_last_stays_within_the_array() -> None:
    table = Table()
    table.ports[0][5] = 3
    assert table.lookup(lib.NV_REASON_IO, lib.NV_READ, 0x10005) == 3


@pytest.mark.parametrize("reason", [lib.NV_REASONS, 0xFFFF])
def test_an_unknown_reason_is_nobodys(reason: int) -> None:
    assert Table().lookup(reason, 0, 0) == 0


def test_reason_and_direction_select_the_ranges() -> None:
    table = Table()
    table.set_ranges(lib.NV_REASON_RDMSR, lib.NV_READ, [Range(0x10, 0x1F, 4)])
    table.set_ranges(lib.NV_REASON_MMIO, lib.NV_WRITE, [Range(0, TOP, 9)])
    assert table.lookup(lib.NV_REASON_RDMSR, lib.NV_READ, 0x10) == 4
    assert table.lookup(lib.NV_REASON_RDMSR, lib.NV_EXECUTE, 0x1F) == 4, "execute counts as read"
    assert table.lookup(lib.NV_REASON_RDMSR, lib.NV_WRITE, 0x10) == 0
    assert table.lookup(lib.NV_REASON_WRMSR, lib.NV_READ, 0x10) == 0
    assert table.lookup(lib.NV_REASON_MMIO, lib.NV_WRITE, TOP) == 9


@st.composite
def disjoint_ranges(draw: st.DrawFn) -> list[Range]:
    edges = sorted(draw(st.sets(st.integers(0, 300) | st.integers(TOP - 5, TOP), max_size=40)))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return [Range(first, last, claim) for claim, (first, last) in enumerate(pairs, 1)]


@given(disjoint_ranges(), st.lists(st.integers(0, 310) | st.integers(TOP - 6, TOP), min_size=1, max_size=30))
def test_lookup_agrees_with_a_search_through_a_list(ranges: list[Range], qualifiers: list[int]) -> None:
    table = Table()
    table.set_ranges(lib.NV_REASON_MMIO, lib.NV_READ, ranges)
    for qualifier in qualifiers:
        expected = next((r.claim for r in ranges if r.first <= qualifier <= r.last), 0)
        assert table.lookup(lib.NV_REASON_MMIO, lib.NV_READ, qualifier) == expected
