"""The maps of towers with images: each space has its own addresses."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm._native import ffi, lib
from nestvmm.hypervisors import HANDLED
from nestvmm.nesting.designation import QUALIFIER_MAX, Ceiling, Claim, Scope
from nestvmm.nesting.flat import FlatTable
from nestvmm.nesting.memory import MemoryMap, Region
from nestvmm.nesting.policy import Policy
from nestvmm.nesting.spec import GuestSpec, LevelSpec, TowerSpec
from nestvmm.nesting.tower_maps import TowerMaps
from nestvmm.x86.exit_reason import ExitReason

PAGE = 0x1000
ONE, TWO = 1 << lib.NV_SPACE_SHIFT, 2 << lib.NV_SPACE_SHIFT
LAST = ONE - 1
SHIFTED = MemoryMap([Region(0x4000, 0x2000, 0x8000)])


def maps() -> TowerMaps:
    """L1 Python, L2 image, L3 and L4 Python, L5 image, guest."""
    return TowerMaps(64 * PAGE, {1: SHIFTED, 3: MemoryMap.identity(), 4: SHIFTED}, (2, 5, 6))


def test_each_level_is_in_the_space_of_the_code_that_it_ends_at() -> None:
    assert [maps().space(level) for level in range(1, 7)] == [0, 0, 1, 1, 1, 2]


def test_addresses_are_carried_in_their_own_space_only() -> None:
    tower = maps()
    assert [tower.carry(1, 0x4010, level) for level in range(1, 7)] == [None, None, 0x8010, 0x8010, 0x4010, None]
    assert [tower.carry(0, 0x4010, level) for level in (1, 2, 3)] == [0x8010, 0x4010, None]
    assert tower.carry(1, 0x9010, 4) is None, "level 4 maps it nowhere"


def test_an_address_is_carried_by_the_maps_of_the_moment() -> None:
    tower = maps()
    before = [tower.carry(1, 0x4010, level) for level in (3, 4)]
    tower.change(3, SHIFTED)
    assert (before, [tower.carry(1, 0x4010, level) for level in (3, 4)]) == ([0x8010, 0x8010], [None, 0x8010])
    tower.change(4, MemoryMap.identity())
    assert [tower.carry(1, 0x4010, level) for level in (3, 4)] == [0x8010, 0x4010]
    assert tower.carry(1, 0x9010, 4) == 0x9010, "a hole is none any more"


def test_a_map_that_changes_while_an_address_is_carried_counts_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = maps()
    part = tower.parts[1]
    carry = part.carry

    def carry_and_change(address: int, level: int) -> int | None:
        found = carry(address, level)
        monkeypatch.undo()
        tower.change(3, SHIFTED)
        return found

    monkeypatch.setattr(part, "carry", carry_and_change)
    assert [tower.carry(1, 0x4010, 3) for _ in range(2)] == [0x8010, None]


@given(st.integers(0, 0xA000), st.integers(1, 6), st.integers(0, 1))
def test_the_second_time_it_is_carried_as_the_first_time(address: int, level: int, space: int) -> None:
    asked = maps()
    for at in (address ^ 0xFFF, address):
        asked.carry(space, at, level)
    assert asked.carry(space, address, level) == maps().carry(space, address, level)


def test_a_guest_cannot_make_l0_keep_all_that_it_asks_for() -> None:
    tower = maps()
    tracemalloc.start()
    try:
        for page in range(1 << 14):
            tower.carry(1, page * PAGE, 5)
        kept = tracemalloc.get_traced_memory()[0]
        for page in range(1 << 14, 1 << 15):
            tower.carry(1, page * PAGE, 5)
        assert tracemalloc.get_traced_memory()[0] < kept + 100_000
    finally:
        tracemalloc.stop()


def test_claims_are_projected_with_their_space() -> None:
    tower = maps()
    mmio, fault = (Scope(reason, 0x8000, 0x8FFF) for reason in (ExitReason.MMIO, ExitReason.NESTED_PAGE_FAULT))
    assert tower.project(0, mmio) == [(0x4000, 0x4FFF)]
    assert tower.project(1, mmio) == [(0x8000, 0x8FFF)]
    assert tower.project(2, fault) == [(ONE | 0x4000, ONE | 0x4FFF)]
    assert tower.project(3, fault) == [(ONE | 0x4000, ONE | 0x4FFF)]
    assert tower.project(4, fault) == [(ONE | 0x8000, ONE | 0x8FFF)]
    assert tower.project(4, Scope(ExitReason.NESTED_PAGE_FAULT)) == [(ONE, ONE | LAST)]
    assert tower.project(1, Scope(ExitReason.NESTED_PAGE_FAULT)) == [(0, LAST)], "not those of other spaces"
    assert tower.project(1, Scope(ExitReason.MEMORY_FAULT)) == [(0, QUALIFIER_MAX)], "KVM does not locate each"
    assert tower.project(4, Scope(ExitReason.INTERRUPT_WINDOW)) == [(ONE, ONE | LAST)]
    assert tower.project(1, Scope(ExitReason.NMI_WINDOW)) == [(0, LAST)]
    assert tower.project(5, Scope(ExitReason.MMIO, PAGE, PAGE)) == [(TWO | PAGE, TWO | PAGE)]


def test_what_arrives_keeps_its_vectors() -> None:
    assert maps().project(4, Scope(ExitReason.INTERRUPT, 0x40, 0x41)) == [(ONE | 0x40, ONE | 0x41)]


def test_devices_that_an_image_is_designated_for_are_no_holes() -> None:
    """Level 4's device covers three of level 5's pages; they are level 3's from 0x8000 on, and so are the image's."""
    shifted = MemoryMap([Region(0x4000, 0x3000, 0x8000)])
    levels = {1: SHIFTED, 3: MemoryMap.identity(), 4: shifted}
    hole = [(4, 0x4000, 0x6FFF)]
    tower = TowerMaps(64 * PAGE, levels, (2, 5, 6), hole)
    assert tower.part(5).devices() == [(0x4000, 0x6FFF)]
    tower = TowerMaps(64 * PAGE, levels, (2, 5, 6), hole, passed=[(2, 0x9000, 0x9FFF), (5, 0x8000, 0xFFFF)])
    assert tower.part(5).devices() == [(0x4000, 0x4FFF), (0x6000, 0x6FFF)]
    assert tower.to_host(5).translate(0x5010) == (0x9010, shifted.regions[0].rights)
    assert tower.to_host(5).translate(0x6010) is None


def test_a_designation_of_a_whole_reason_is_one_for_levels_above_images() -> None:
    """Level 4 claims faults in its own space; one designated to level 1 is not its, nor one of a page to level 3."""
    policy = Policy(TowerSpec(GuestSpec(kernel=Path("guest")), (LevelSpec("none"),) * 5), [])
    fault = ExitReason.NESTED_PAGE_FAULT
    policy.claims = [Claim(level, Scope(fault), lambda _: HANDLED) for level in (1, 4)]
    address = ONE | 0x4010
    assert [one.level for one in policy.table([], maps()).route(fault, address)] == [4]
    for ceiling, levels in (
        (Ceiling(1, Scope(fault)), []),
        (Ceiling(3, Scope(fault, 0x8000, 0x8FFF)), []),
        (Ceiling(2, Scope(fault, 0x8000, 0x8FFF)), []),
        (Ceiling(1, Scope(fault, 0x8000, 0x8FFF)), [4]),
        (Ceiling(3, Scope(fault, 0x9000, 0x9FFF)), [4]),
    ):
        policy.ceilings = [ceiling]
        assert [one.level for one in policy.table([], maps()).route(fault, address)] == levels, ceiling


def test_interrupts_above_an_image_are_l0s_to_see_to() -> None:
    """The processor stops for those of levels below all images; each space has what its levels claim."""
    policy = Policy(TowerSpec(GuestSpec(kernel=Path("guest")), (LevelSpec("none"),) * 5), [])
    scopes = [Scope(ExitReason.INTERRUPT), Scope(ExitReason.NMI), Scope(ExitReason.HLT)]
    policy.claims = [Claim(1, scopes[0], lambda _: HANDLED), *(Claim(4, one, lambda _: HANDLED) for one in scopes)]
    assert policy.scopes(2) == [scopes[0], scopes[2]]
    assert policy.arriving(maps()) == {1: {ExitReason.INTERRUPT, ExitReason.NMI}, 2: set()}


def test_a_change_is_one_of_its_own_space() -> None:
    tower = maps()
    tower.change(4, MemoryMap([Region(0, PAGE, PAGE)]))
    assert tower.map_of(4).regions == tower.to_host(5).regions == (Region(0, PAGE, PAGE),)
    assert tower.to_host(2).translate(0x4000) == (0x8000, SHIFTED.regions[0].rights)
    assert [part.is_all() for part in tower.parts] == [False, False, True]


def test_an_event_goes_to_levels_of_its_own_space() -> None:
    """Both levels claim all faults and windows; L0 has the last word in every space."""
    reasons = ExitReason.NESTED_PAGE_FAULT, ExitReason.INTERRUPT_WINDOW

    def claims(level: int) -> list[Claim]:
        return [Claim(level, Scope(reason), lambda _: HANDLED) for reason in reasons]

    policy = Policy(TowerSpec(GuestSpec(kernel=Path("guest")), (LevelSpec("none"),) * 5), [])
    policy.claims = [*claims(1), *claims(4)]
    flat = FlatTable(policy.table(claims(0), maps()))
    for reason in reasons:
        for space, level in (0, 1), (1, 4), (2, 0):
            event = ffi.new("struct nv_event *", {"reason": reason, "qualifier": 0x4000, "space": space})
            if reason is ExitReason.INTERRUPT_WINDOW:
                event.qualifier = 0
            entry = flat.table.claims[lib.nv_table_lookup(flat.table, event)]
            assert (entry.level, flat.table.claims[entry.next].level) == (level, 0), (reason, space)
