"""What Python levels above an image give: the ranges that C gets, and when it must forget."""

from __future__ import annotations

from typing import Any

import pytest

from nestvmm._native import ffi, lib
from nestvmm.engines.given import Given, given_ranges, takes_away
from nestvmm.engines.shadow import ADDRESSES, ShadowRange
from nestvmm.nesting.memory import Slot
from nestvmm.x86.rights import Rights

PAGE = 0x1000
WINDOW = lib.NV_SHADOW_WINDOW
READ, WRITE, EXECUTE, ALL = Rights.READ, Rights.WRITE, Rights.EXECUTE, Rights.ALL


def test_ranges_have_the_memory_with_its_rights_and_windows_for_devices() -> None:
    slots = [
        Slot(0, 4 * PAGE, 0x10000, readonly=False),
        Slot(8 * PAGE, PAGE, 0, readonly=True, executable=False),
        Slot(ADDRESSES - PAGE, 2 * PAGE, 0, readonly=True),
        Slot(ADDRESSES + PAGE, PAGE, 0, readonly=False),
    ]
    holes = [(PAGE, 2 * PAGE - 1), (ADDRESSES, ADDRESSES + PAGE - 1)]
    assert given_ranges(slots, holes) == [
        ShadowRange(0, PAGE - 1, 0x10000, ALL),
        ShadowRange(PAGE, 2 * PAGE - 1, WINDOW, ALL),
        ShadowRange(2 * PAGE, 4 * PAGE - 1, 0x12000, ALL),
        ShadowRange(8 * PAGE, 9 * PAGE - 1, 0, READ),
        ShadowRange(ADDRESSES - PAGE, ADDRESSES - 1, 0, READ | EXECUTE),
    ]


def one(first: int, last: int, to: int, rights: Rights = ALL) -> ShadowRange:
    return ShadowRange(first * PAGE, (last + 1) * PAGE - 1, to if to == WINDOW else to * PAGE, rights)


@pytest.mark.parametrize(
    ("old", "new", "less"),
    [
        ([], [one(0, 3, 9)], False),
        ([one(0, 3, 9)], [], True),
        ([one(0, 3, 9)], [one(0, 1, 9), one(2, 3, 11)], False),
        ([one(0, 1, 9), one(2, 3, 11)], [one(0, 5, 9)], False),
        ([one(0, 3, 9)], [one(0, 1, 9), one(3, 3, 12)], True),
        ([one(0, 3, 9)], [one(0, 1, 9), one(2, 3, 12)], True),
        ([one(2, 3, 9)], [one(0, 0, 7), one(1, 3, 8)], False),
        ([one(0, 3, 9, READ)], [one(0, 3, 9, READ | WRITE)], False),
        ([one(0, 3, 9)], [one(0, 3, 9, READ | WRITE)], True),
        ([one(0, 3, WINDOW)], [one(0, 1, WINDOW), one(2, 5, WINDOW)], False),
        ([one(0, 3, WINDOW)], [one(0, 3, 0)], True),
        ([one(0, 0, 0), one(5, 5, 5)], [one(0, 0, 0), one(4, 4, 4), one(5, 5, 6)], True),
    ],
)
def test_what_only_gets_more_is_not_forgotten(old: list[ShadowRange], new: list[ShadowRange], less: bool) -> None:
    assert takes_away(old, new) is less


def ranges(c: Any, space: int) -> list[tuple[int, int, int, int]]:
    return [(c.given[space].ranges[i].first, c.given[space].ranges[i].last) for i in range(c.given[space].count)]


def test_conceded_pages_are_windows_until_a_level_gives_them() -> None:
    c = ffi.new("struct nv_nested *")
    given = Given(c)
    assert not given.concede(1, 0), "nothing is withheld there"
    given.set(1, [Slot(0, PAGE, 0, readonly=True)], [])
    assert not given.concede(1, 8), "a page that is given is none"
    assert not given.concede(1, ADDRESSES)
    assert given.concede(1, 3 * PAGE + 5)
    assert not given.concede(1, 3 * PAGE), "it is one already"
    assert ranges(c, 1) == [(0, PAGE - 1), (3 * PAGE, 4 * PAGE - 1)]
    given.set(1, [Slot(0, PAGE, 0, readonly=True)], [])
    assert ranges(c, 1) == [(0, PAGE - 1), (3 * PAGE, 4 * PAGE - 1)]
    given.set(1, [Slot(2 * PAGE, 4 * PAGE, 0, readonly=True)], [])
    assert ranges(c, 1) == [(2 * PAGE, 6 * PAGE - 1)]
    given.set(1, [], [])
    assert (c.given[1].count, c.given[1].ranges == ffi.NULL) == (0, False), "none is not all"
    for page in range(Given.conceded_max + 1):
        assert given.concede(1, page * PAGE)
    assert ranges(c, 1) == [(Given.conceded_max * PAGE, (Given.conceded_max + 1) * PAGE - 1)]
