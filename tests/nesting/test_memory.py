"""Memory maps against a naive model: a dictionary of pages for each level, looked up level by level."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm.errors import UsageError
from nestvmm.nesting.memory import (
    ADDRESS_END,
    PAGE_SIZE,
    REGIONS_MAX,
    MemoryMap,
    Region,
    Slot,
    compose,
    compose_all,
    ram_map,
    slots,
)
from nestvmm.x86.rights import Rights

PAGES = 24
GIB = 1 << 30
RW = Rights.READ | Rights.WRITE
RX = Rights.READ | Rights.EXECUTE

Model = dict[int, tuple[int, Rights]]


def page(number: int) -> int:
    """The address of a page."""
    return number * PAGE_SIZE


@st.composite
def maps(draw: st.DrawFn) -> MemoryMap:
    """A map of PAGES upper pages to PAGES lower ones: regions of 1 to 6 pages, holes, aliases, any rights."""
    regions = []
    start = 0
    while start < PAGES:
        length = draw(st.integers(1, min(6, PAGES - start)))
        if draw(st.integers(0, 4)):
            at = draw(st.integers(0, PAGES - length))
            rights = Rights(draw(st.integers(1, 7)))
            regions.append(Region(page(start), page(length), page(at), rights))
        start += length
    return MemoryMap(draw(st.permutations(regions)))


def model_of(memory: MemoryMap) -> Model:
    """The same map, page by page."""
    model: Model = {}
    for region in memory.regions:
        for step in range(0, region.size, PAGE_SIZE):
            assert region.base + step not in model
            model[region.base + step] = (region.at + step, region.rights)
    return model


def walk(models: list[Model], address: int) -> tuple[int, Rights] | None:
    """Take a page's address down through every level, the highest level's model last in the list."""
    rights = Rights.ALL
    for model in reversed(models):
        step = model.get(address)
        if step is None:
            return None
        address = step[0]
        rights &= step[1]
    return (address, rights) if rights else None


@given(st.lists(maps(), min_size=1, max_size=5))
def test_composed_map_translates_as_the_levels_do_one_by_one(levels: list[MemoryMap]) -> None:
    composed = compose_all(levels)
    models = [model_of(level) for level in levels]
    for number in range(PAGES + 2):
        expected = walk(models, page(number))
        assert composed.translate(page(number)) == expected
        last = None if expected is None else (expected[0] + PAGE_SIZE - 1, expected[1])
        assert composed.translate(page(number) + PAGE_SIZE - 1) == last


@given(st.lists(maps(), min_size=1, max_size=4))
def test_no_level_reaches_what_the_level_below_did_not_give(levels: list[MemoryMap]) -> None:
    given_pages = {at for at, _ in model_of(levels[0]).values()}
    for base, (at, rights) in model_of(compose_all(levels)).items():
        assert at in given_pages
        top = levels[-1].translate(base)
        assert top is not None
        assert rights in top[1]


@given(maps(), maps(), maps())
def test_composition_is_associative_with_the_identity_as_neutral_element(
    a: MemoryMap, b: MemoryMap, c: MemoryMap
) -> None:
    assert compose(compose(a, b), c) == compose(a, compose(b, c)) == compose_all([c, b, a])
    assert compose(a, MemoryMap.identity()) == compose(MemoryMap.identity(), a) == a


@given(maps())
def test_regions_are_ascending_disjoint_and_joined(memory: MemoryMap) -> None:
    for before, after in pairwise(memory.regions):
        assert before.last < after.base
        assert not after.continues(before)
    by_page = [Region(base, PAGE_SIZE, at, rights) for base, (at, rights) in model_of(memory).items()]
    assert MemoryMap(by_page) == memory


@given(maps(), st.integers(0, PAGES - 1), st.integers(0, PAGE_SIZE - 1), st.integers(0, 3 * PAGE_SIZE))
def test_hole_takes_whole_pages_and_nothing_else(memory: MemoryMap, number: int, offset: int, length: int) -> None:
    first = page(number) + offset
    last = first + length
    holes = {page(number) for number in range(first // PAGE_SIZE, last // PAGE_SIZE + 1)}
    expected = {base: target for base, target in model_of(memory).items() if base not in holes}
    assert model_of(memory.without(first, last)) == expected


@given(maps(), st.integers(0, page(PAGES) - 1), st.integers(0, 4 * PAGE_SIZE))
def test_preimage_is_every_address_that_leads_into_the_range(memory: MemoryMap, first: int, length: int) -> None:
    last = first + length
    ranges = memory.preimage(first, last)
    for (_, before), (after, _) in pairwise(ranges):
        assert before + 1 < after
    # first, last and the ends of pages are the only addresses at which membership can change
    edges = {step + page(number) for number in range(PAGES) for step in (0, first % PAGE_SIZE, last % PAGE_SIZE)}
    for address in sorted({edge + delta for edge in edges for delta in (-1, 0, 1)} - {-1}):
        target = memory.translate(address)
        inside = target is not None and first <= target[0] <= last
        assert any(low <= address <= high for low, high in ranges) == inside


RANGES = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(lambda one: (one[0], min(sum(one), PAGES)))


@given(maps(), RANGES, st.integers(0, 3), st.sampled_from([Rights.ALL, RW, RX, Rights.READ, Rights(0)]))
def test_changes_of_a_range_are_the_models(memory: MemoryMap, where: tuple[int, int], to: int, rights: Rights) -> None:
    first, last = page(where[0]), page(where[1]) - 1
    pages = range(first, last, PAGE_SIZE)
    before = model_of(memory)
    assert model_of(memory.protected(first, last, rights)) == {
        address: (target[0], rights if address in pages else target[1])
        for address, target in before.items()
        if rights or address not in pages
    }
    if rights:
        region = Region(first, last + 1 - first, page(to), rights)
        changed = {address: (page(to) + address - first, rights) for address in pages}
        assert model_of(memory.given(region)) == before | changed
    withheld = {at for low, high in memory.withheld(first, last) for at in range(low, high, PAGE_SIZE)}
    assert withheld == {at for at in pages if at not in before or before[at][1] != Rights.ALL}


@given(st.lists(maps(), min_size=1, max_size=3))
def test_slots_are_disjoint_and_equal_to_the_model(levels: list[MemoryMap]) -> None:
    models = [model_of(level) for level in levels]
    found = slots(compose_all(levels))
    backed: dict[int, tuple[int, bool]] = {}
    for slot in found:
        for step in range(0, slot.size, PAGE_SIZE):
            assert slot.guest_address + step not in backed
            backed[slot.guest_address + step] = (slot.offset + step, slot.readonly)
    expected = {}
    for number in range(PAGES):
        target = walk(models, page(number))
        if target and Rights.READ in target[1]:
            expected[page(number)] = (target[0], Rights.WRITE not in target[1])
    assert backed == expected


def test_rights_decide_the_slot() -> None:
    memory = MemoryMap(
        [
            Region(page(0), page(1), page(8), Rights.ALL),
            Region(page(1), page(1), page(9), RW),
            Region(page(2), page(1), page(10), RX),
            Region(page(3), page(1), page(11), Rights.WRITE | Rights.EXECUTE),
        ]
    )
    assert len(memory.regions) == 4
    assert slots(memory) == (
        Slot(page(0), page(1), page(8), False),
        Slot(page(1), page(1), page(9), False, executable=False),
        Slot(page(2), page(1), page(10), True),
    )


def test_two_regions_may_alias_the_same_memory() -> None:
    memory = MemoryMap([Region(page(0), page(1), page(5)), Region(page(1), page(1), page(5), Rights.READ)])
    assert memory.translate(0x123) == (page(5) + 0x123, Rights.ALL)
    assert memory.translate(page(1) + 0x123) == (page(5) + 0x123, Rights.READ)
    assert memory.preimage(page(5) + 8, page(5) + 15) == [(8, 15), (page(1) + 8, page(1) + 15)]
    assert memory.preimage(page(5), page(6)) == [(0, page(2) - 1)]


def test_identity_reaches_all_addresses_and_no_more() -> None:
    memory = MemoryMap.identity()
    assert memory.translate(0) == (0, Rights.ALL)
    assert memory.translate(ADDRESS_END - 1) == (ADDRESS_END - 1, Rights.ALL)
    assert memory.translate(ADDRESS_END) is None
    assert memory.translate(-1) is None
    assert memory.preimage(0xFEE00000, 0xFEE00FFF) == [(0xFEE00000, 0xFEE00FFF)]


def test_hole_in_the_identity_splits_it() -> None:
    memory = MemoryMap.identity().without(0xD0000004, 0xD0000007)
    assert memory.regions == (
        Region(0, 0xD0000000, 0),
        Region(0xD0001000, ADDRESS_END - 0xD0001000, 0xD0001000),
    )
    assert memory.without(0, ADDRESS_END - 1) == MemoryMap()


def test_ram_map_moves_what_the_devices_addresses_would_hide_above_4_gib() -> None:
    assert slots(ram_map(2 * GIB)) == (Slot(0, 2 * GIB, 0, False),)
    assert slots(ram_map(3 * GIB)) == (Slot(0, 3 * GIB, 0, False),)
    assert slots(ram_map(5 * GIB)) == (Slot(0, 3 * GIB, 0, False), Slot(4 * GIB, 2 * GIB, 3 * GIB, False))


def test_level_that_moves_its_guest_is_offset_into_ram() -> None:
    moved = MemoryMap([Region(0, page(16), page(16)), Region(page(16), page(4), page(0), Rights.READ)])
    composed = compose_all([ram_map(page(32)), MemoryMap.identity(), moved])
    assert slots(composed) == (Slot(0, page(16), page(16), False), Slot(page(16), page(4), 0, True, executable=False))


def test_what_reaches_beyond_the_level_below_is_cut_off() -> None:
    greedy = MemoryMap([Region(0, page(64), page(8))])
    assert slots(compose(greedy, ram_map(page(16)))) == (Slot(0, page(8), page(8), False),)


def test_overlap_is_refused_with_both_ranges() -> None:
    with pytest.raises(UsageError, match=r"0x1000-0x2fff and 0x2000-0x2fff overlap"):
        MemoryMap([Region(0x2000, 0x1000, 0), Region(0x1000, 0x2000, 0)])


@pytest.mark.parametrize(
    ("base", "size", "at", "message"),
    [
        (0x800, 0x1000, 0, "base is no multiple of the page size, 0x1000"),
        (0, 0x1001, 0, "size is no multiple of the page size, 0x1000"),
        (0, 0x1000, 1, "at is no multiple of the page size, 0x1000"),
        (0, 0, 0, "size must be positive"),
        (0, -0x1000, 0, "size must be positive"),
        (-0x1000, 0x1000, 0, "the range at base leaves the physical addresses, 0 to 0xfffffffffffff"),
        (ADDRESS_END, 0x1000, 0, "the range at base leaves the physical addresses, 0 to 0xfffffffffffff"),
        (0, 0x2000, ADDRESS_END - 0x1000, "the range at at leaves the physical addresses, 0 to 0xfffffffffffff"),
    ],
)
def test_region_that_nothing_could_express_is_refused(base: int, size: int, at: int, message: str) -> None:
    place = f"memory region base {base:#x} size {size:#x} at {at:#x}: {message}"
    with pytest.raises(UsageError, match="^" + re.escape(place)):
        Region(base, size, at)


def test_region_without_rights_is_refused() -> None:
    with pytest.raises(UsageError, match="it gives no right"):
        Region(0, 0x1000, 0, Rights(0))


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (6, 5), (0, ADDRESS_END)])
def test_hole_outside_the_addresses_is_refused(first: int, last: int) -> None:
    with pytest.raises(UsageError, match=re.escape(f"memory hole {first:#x}-{last:#x}: ")):
        MemoryMap.identity().without(first, last)


def test_composition_of_more_than_kvm_can_hold_is_refused() -> None:
    # every level shows all of the lower half twice: 2**16 regions above 16 levels, were they not refused
    half = ADDRESS_END // 2
    scattered = MemoryMap(Region(page(2 * number), page(1), page(2 * number)) for number in range(1 << 14))
    doubled = MemoryMap([Region(0, half, 0), Region(half, half, 0)])
    with pytest.raises(UsageError, match=f"compose to more than the {REGIONS_MAX} that KVM can hold"):
        compose_all([scattered, doubled, doubled])


def test_many_levels_and_thousands_of_regions_are_quick() -> None:
    scattered = MemoryMap(Region(page(2 * number), page(1), page(2 * number)) for number in range(4000))
    start = time.process_time()
    assert compose_all([MemoryMap.identity()] * 16) == MemoryMap.identity()
    assert compose_all([scattered, *[MemoryMap.identity()] * 15]) == scattered
    assert time.process_time() - start < 5
