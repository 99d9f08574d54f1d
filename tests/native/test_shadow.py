"""The shadow tables against a model: the ranges decide what they say, and the processor hears of every loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvmm._native import ffi, lib

READ, WRITE, EXECUTE = lib.NV_RIGHT_READ, lib.NV_RIGHT_WRITE, lib.NV_RIGHT_EXECUTE
ALL = READ | WRITE | EXECUTE
PAGE, MIB2, GIB = 1 << 12, 1 << 21, 1 << 30
POOL, WINDOWS = 0x7FD0000000, 0x7FC0000000
EVERYTHING = (0, (1 << 64) - 1)
WINDOW = lib.NV_SHADOW_WINDOW
NPT, EPT = lib.NV_SHADOW_NPT, lib.NV_SHADOW_EPT
ADDRESS = 0x000FFFFFFFFFF000


class Range(NamedTuple):
    first: int
    last: int
    to: int
    rights: int = ALL


class Leaf(NamedTuple):
    """What the tables say of an address."""

    to: int
    rights: int
    level: int


class Shadow:
    """An nv_shadow and its memory."""

    def __init__(self, ranges: Sequence[Range] = (), pages: int = 64, kind: int = NPT, largest: int = 3) -> None:
        self.format, self.windows = kind, 3
        self.pool = ffi.new("uint64_t[]", 512 * pages)
        self._windows = ffi.new("uint64_t[]", self.windows)
        self.c = ffi.new(
            "struct nv_shadow *",
            {
                "pool": self.pool,
                "physical": POOL,
                "pages": pages,
                "format": kind,
                "largest": largest,
                "window": WINDOWS,
                "windows": self._windows,
                "window_count": self.windows,
            },
        )
        lib.nv_shadow_reset(self.c)
        self.set(ranges)
        self.c.stale = 0

    def set(self, ranges: Sequence[Range], first: int = 0, last: int = EVERYTHING[1]) -> None:
        fields = [{"first": one.first, "last": one.last, "to": one.to, "rights": one.rights} for one in ranges]
        self._ranges: Any = ffi.new("struct nv_shadow_range[]", fields)
        lib.nv_shadow_set(self.c, self._ranges, len(ranges), first, last)

    def fill(self, address: int, access: int = READ) -> bool:
        return bool(lib.nv_shadow_fill(self.c, address, access) == lib.NV_SHADOW_FILLED)

    def present(self, entry: int) -> bool:
        return bool(entry & (7 if self.format == EPT else 1))

    def rights(self, entry: int) -> int:
        if self.format == EPT:
            return entry & 7
        return READ | (WRITE if entry & 2 else 0) | (0 if entry >> 63 else EXECUTE)

    def entries(self) -> dict[int, tuple[int, int]]:
        """(entry, level) of all that a walk can reach, by where the entry lies in the pool."""
        found: dict[int, tuple[int, int]] = {}
        tables = [(0, 4)]
        while tables:
            table, level = tables.pop()
            for place in range(512 * table, 512 * table + 512):
                entry = self.pool[place]
                if not self.present(entry):
                    assert entry == 0
                    continue
                assert place not in found, "no table is linked twice"
                found[place] = entry, level
                if level > 1 and not entry & 0x80:
                    tables.append((((entry & ADDRESS) - POOL) // PAGE, level - 1))
        return found

    def look(self, address: int) -> Leaf | None:
        """Walks the tables as the processor does."""
        table = 0
        for level in (4, 3, 2, 1):
            shift = 12 + 9 * (level - 1)
            entry = self.pool[512 * table + (address >> shift) % 512]
            if not self.present(entry):
                return None
            if level == 1 or entry & 0x80:
                if self.format == EPT:
                    assert entry & 0x38 == 6 << 3, "write-back"
                else:
                    assert entry & 4, "nested walks are user accesses"
                start = entry & ADDRESS & ~((1 << shift) - 1)
                return Leaf(start + address % (1 << shift), self.rights(entry), level)
            table = ((entry & ADDRESS) - POOL) // PAGE
        raise AssertionError("a walk has four levels")


@pytest.mark.parametrize("kind", [NPT, EPT])
@pytest.mark.parametrize("rights", [READ, READ | WRITE, READ | EXECUTE, ALL])
def test_an_access_needs_its_right(kind: int, rights: int) -> None:
    shadow = Shadow([Range(0x1000, 0x1FFF, 0x5000, rights)], kind=kind)
    assert not shadow.fill(0x0FFF)
    assert not shadow.fill(0x2000)
    for access in (READ, WRITE, EXECUTE):
        assert shadow.fill(0x1234, access) == bool(rights & access)
        assert shadow.look(0x1234) == Leaf(0x5234, rights, 1)
    assert shadow.look(0x0FFF) is None
    assert shadow.c.stale == 0


def test_entries_are_those_of_the_manuals() -> None:
    """AMD APM vol. 2, figures 5-21 to 5-25; Intel SDM vol. 3, tables 28-1 to 28-6."""
    for kind, table, large, small in (
        (NPT, 0x7, 1 << 63 | 0x80 | 0x5, 0x7),
        (EPT, 0x7, 0x80 | 0x30 | 0x1, 0x37),
    ):
        ranges = [Range(0, 2 * MIB2 - 1, 4 * MIB2, READ), Range(2 * MIB2, 2 * MIB2 + PAGE - 1, 0)]
        shadow = Shadow(ranges, kind=kind)
        assert shadow.fill(MIB2)
        assert shadow.fill(2 * MIB2)
        assert shadow.pool[0] == POOL + PAGE | table
        assert shadow.pool[512] == POOL + 2 * PAGE | table
        assert shadow.pool[1024 + 1] == 5 * MIB2 | large
        assert shadow.pool[1024 + 2] == POOL + 3 * PAGE | table
        assert shadow.pool[1536] == small


@pytest.mark.parametrize(
    ("one", "address", "largest", "level"),
    [
        (Range(0, 4 * GIB - 1, 8 * GIB), 2 * GIB + 5, 3, 3),
        (Range(0, 4 * GIB - 1, 8 * GIB), 2 * GIB + 5, 2, 2),
        (Range(0, 4 * GIB - 1, 8 * GIB), 2 * GIB + 5, 1, 1),
        (Range(0, 4 * GIB - 1, 8 * GIB + MIB2), 2 * GIB, 3, 2),
        (Range(0, 4 * GIB - 1, 8 * GIB + PAGE), 2 * GIB, 3, 1),
        (Range(PAGE, 4 * GIB - 1, 8 * GIB + PAGE), GIB - 1, 3, 2),
        (Range(PAGE, 4 * GIB - 1, 8 * GIB + PAGE), GIB, 3, 3),
        (Range(PAGE, 4 * GIB - 1, 8 * GIB + PAGE), 2 * PAGE, 3, 1),
        (Range(0, 4 * GIB - PAGE - 1, 8 * GIB), 3 * GIB, 3, 2),
        (Range(0, 4 * GIB - PAGE - 1, 8 * GIB), 4 * GIB - 2 * PAGE, 3, 1),
        (Range(0, (1 << 52) - 1, 0), (1 << 48) - 1, 3, 3),
    ],
)
def test_the_largest_page_that_fits(one: Range, address: int, largest: int, level: int) -> None:
    shadow = Shadow([one], largest=largest)
    assert shadow.fill(address)
    assert shadow.look(address) == Leaf(one.to + address - one.first, ALL, level)


def test_four_levels_end_at_48_bits() -> None:
    shadow = Shadow([Range(0, (1 << 52) - 1, 0)])
    assert not shadow.fill(1 << 48)
    assert shadow.entries() == {}


def test_terabytes_need_few_pages() -> None:
    shadow = Shadow([Range(0, (1 << 40) - 1, 1 << 41)], pages=4)
    for number in range(512):
        assert shadow.fill(number * GIB, WRITE)
    assert (shadow.c.used, shadow.c.rebuilt, shadow.c.stale) == (2, 0, 0)


def test_a_full_pool_is_emptied_and_the_fill_succeeds() -> None:
    shadow = Shadow([Range(0, 1 << 40, 0, ALL)], pages=4, largest=1)
    assert shadow.fill(0)
    assert shadow.fill(PAGE)
    assert (shadow.c.rebuilt, shadow.c.stale) == (0, 0)
    assert shadow.fill(5 * GIB)
    assert (shadow.c.rebuilt, shadow.c.stale) == (1, 1)
    assert shadow.look(5 * GIB) == Leaf(5 * GIB, ALL, 1)
    assert shadow.look(0) is None


def test_only_what_changed_is_dropped() -> None:
    shadow = Shadow([Range(0, 4 * GIB - 1, 0)])
    for address in (0, GIB, 2 * GIB):
        assert shadow.fill(address)
    # a page of the second GiB goes; the rest of it comes back in the largest pages that are left
    hole = [Range(0, GIB + MIB2 - 1, 0), Range(GIB + MIB2 + PAGE, 4 * GIB - 1, GIB + MIB2 + PAGE)]
    shadow.set(hole, GIB + MIB2, GIB + MIB2 + PAGE - 1)
    assert shadow.c.stale == 1
    assert shadow.look(0) == Leaf(0, ALL, 3)
    assert shadow.look(2 * GIB) == Leaf(2 * GIB, ALL, 3)
    assert shadow.look(GIB) is None
    assert shadow.fill(GIB)
    assert shadow.look(GIB) == Leaf(GIB, ALL, 2)
    assert shadow.fill(GIB + MIB2 + PAGE)
    assert shadow.look(GIB + MIB2 + PAGE) == Leaf(GIB + MIB2 + PAGE, ALL, 1)
    assert not shadow.fill(GIB + MIB2)


def test_nothing_is_forgotten_for_a_change_that_no_entry_knows() -> None:
    shadow = Shadow([Range(0, GIB - 1, 0)])
    assert shadow.fill(0)
    shadow.set([Range(0, GIB - 1, 0), Range(GIB, 2 * GIB - 1, 0)], GIB, 2 * GIB - 1)
    assert shadow.c.stale == 0
    shadow.set([Range(0, GIB - 1, 0)], GIB, 2 * GIB - 1)
    assert shadow.c.stale == 0


def test_rights_grow_in_place_and_shrink_by_a_drop() -> None:
    shadow = Shadow([Range(0, PAGE - 1, 0, READ)])
    assert shadow.fill(0)
    shadow.set([Range(0, PAGE - 1, 0, ALL)], 0, PAGE - 1)
    assert (shadow.look(0), shadow.c.stale) == (Leaf(0, ALL, 1), 0)
    shadow.set([Range(0, PAGE - 1, 0, READ)], 0, PAGE - 1)
    assert (shadow.look(0), shadow.c.stale) == (None, 1)


def test_large_pages_come_back_where_a_change_covers_a_whole_table() -> None:
    shadow = Shadow([Range(0, PAGE - 1, 0, READ), Range(PAGE, GIB - 1, PAGE)])
    assert shadow.fill(0)
    used = shadow.c.used
    shadow.set([Range(0, GIB - 1, 0)], 0, GIB - 1)
    assert shadow.fill(0)
    assert shadow.look(0) == Leaf(0, ALL, 3)
    # and the pages of the tables in between serve again
    shadow.set([Range(0, PAGE - 1, 0, READ), Range(PAGE, GIB - 1, PAGE)], 0, GIB - 1)
    assert shadow.fill(0)
    assert shadow.c.used == used


def test_windows_lead_back_and_are_used_again() -> None:
    shadow = Shadow([Range(0, GIB - 1, WINDOW), Range(GIB, 2 * GIB - 1, 0)])
    assert shadow.fill(GIB)
    for number in range(3):
        assert shadow.fill(number * MIB2 + 0x10, WRITE)
        assert shadow.look(number * MIB2 + 0x10) == Leaf(WINDOWS + number * PAGE + 0x10, ALL, 1)
        assert lib.nv_shadow_unwindow(shadow.c, WINDOWS + number * PAGE + 0xABC) == number * MIB2 + 0xABC
    assert shadow.c.stale == 0
    assert shadow.fill(PAGE)
    assert shadow.c.stale == 1
    assert shadow.look(PAGE) == Leaf(WINDOWS, ALL, 1)
    assert lib.nv_shadow_unwindow(shadow.c, WINDOWS + 1) == PAGE + 1
    assert [shadow.look(number * MIB2) for number in range(3)] == [None] * 3
    assert shadow.look(GIB) == Leaf(0, ALL, 3)
    for other in (0, WINDOWS - 1, WINDOWS + PAGE):
        assert lib.nv_shadow_unwindow(shadow.c, other) == other


def test_reverse_gives_the_first_address_that_leads_there() -> None:
    shadow = Shadow([Range(PAGE, 3 * PAGE - 1, 8 * PAGE), Range(4 * PAGE, 5 * PAGE - 1, 8 * PAGE)])
    assert lib.nv_shadow_reverse(shadow.c, 9 * PAGE + 3) == 2 * PAGE + 3
    assert lib.nv_shadow_reverse(shadow.c, 8 * PAGE) == PAGE
    assert lib.nv_shadow_reverse(shadow.c, 7 * PAGE) == (1 << 64) - 1
    assert lib.nv_shadow_reverse(shadow.c, 10 * PAGE) == (1 << 64) - 1


def test_nothing_leads_to_an_address_that_is_not_known() -> None:
    shadow = Shadow([Range(0, PAGE - 1, WINDOW), Range(PAGE, 2 * PAGE - 1, 0)])
    assert lib.nv_shadow_reverse(shadow.c, (1 << 64) - 1) == (1 << 64) - 1


# Places where pages of all sizes meet, so that random ranges are often aligned and adjacent.
EDGES = sorted(
    base + offset
    for base in (0, GIB - MIB2, GIB, GIB + MIB2, 2 * GIB, 3 * GIB, 512 * GIB)
    for offset in (0, PAGE, 2 * PAGE, MIB2 - PAGE, MIB2)
)
RIGHTS = st.sampled_from([READ, READ | WRITE, READ | EXECUTE, ALL])
# By how much a range is moved.
MOVES = st.sampled_from([0, PAGE, MIB2, GIB, 4 * GIB, WINDOW])
TARGET = tuple[int, int] | None


def cut(ranges: Sequence[Range], first: int, last: int) -> list[Range]:
    """The ranges with a hole."""
    left = [one._replace(last=min(one.last, first - 1)) for one in ranges if one.first < first]
    right = []
    for one in ranges:
        if one.last > last:
            skipped = max(last + 1 - one.first, 0)
            to = one.to if one.to == WINDOW else one.to + skipped
            right.append(one._replace(first=one.first + skipped, to=to))
    return left + right


def given_by(ranges: Sequence[Range], address: int) -> TARGET:
    """(to, rights) of an address by the ranges."""
    for one in ranges:
        if one.first <= address <= one.last:
            return WINDOW if one.to == WINDOW else one.to + address - one.first, one.rights
    return None


@st.composite
def changes(draw: st.DrawFn) -> tuple[int, int, int, int | None]:
    """first, last, by how much it is moved, rights (None: a hole)."""
    first, end = sorted(draw(st.tuples(*[st.integers(0, len(EDGES) - 1)] * 2)))
    last = EDGES[end] - 1 if end > first else EDGES[first] + PAGE - 1
    return EDGES[first], last, draw(MOVES), draw(st.none() | RIGHTS)


ACCESSES = st.tuples(st.sampled_from([edge + offset for edge in EDGES for offset in (0, PAGE - 1)]), RIGHTS)


@settings(max_examples=150)
@given(
    st.lists(changes() | ACCESSES, min_size=1, max_size=40),
    st.sampled_from([4, 7, 64]),
    st.sampled_from([NPT, EPT]),
    st.integers(1, 3),
)
def test_tables_say_what_the_ranges_give(steps: list[Any], pages: int, kind: int, largest: int) -> None:
    shadow = Shadow(pages=pages, kind=kind, largest=largest)
    ranges: list[Range] = []
    known: dict[int, tuple[int, int]] = {}  # what the processor may remember
    for step in steps:
        if len(step) == 2:
            address, access = step
            expected = given_by(ranges, address)
            allowed = expected is not None and not access & ~expected[1]
            assert shadow.fill(address, access) == allowed
            if allowed:
                leaf = shadow.look(address)
                assert leaf is not None
                assert same(shadow, leaf, expected, address)
        else:
            first, last, move, rights = step
            ranges = cut(ranges, first, last)
            if rights is not None:
                ranges = sorted([*ranges, Range(first, last, WINDOW if move == WINDOW else first + move, rights)])
            shadow.set(ranges, first, last)
        entries = shadow.entries()
        if shadow.c.stale:
            known.clear()
            shadow.c.stale = 0
        for place, (entry, level) in known.items():
            assert place in entries, "an entry went, and nobody was told"
            now, level_now = entries[place]
            assert (now & ADDRESS, level_now) == (entry & ADDRESS, level)
            assert shadow.rights(entry) & ~shadow.rights(now) == 0
        known |= entries
        assert shadow.c.used <= pages
        for edge in EDGES:
            leaf = shadow.look(edge)
            assert leaf is None or same(shadow, leaf, given_by(ranges, edge), edge)


def same(shadow: Shadow, leaf: Leaf, expected: TARGET, address: int) -> bool:
    """Whether a leaf is what the ranges give."""
    to = WINDOW if lib.nv_shadow_unwindow(shadow.c, leaf.to) == address != leaf.to else leaf.to
    return (to, leaf.rights) == expected
