"""Addresses carried between levels and the memory of each level, against naive models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvmm.hypervisors import GuestAccessError
from nestvmm.kvm import HostMemory
from nestvmm.nesting.levels import LevelMaps, LevelMemory
from nestvmm.nesting.memory import ADDRESS_END, PAGE_SIZE, MemoryMap, Region
from nestvmm.x86.rights import Rights

PAGES = 8
RAM = PAGES * PAGE_SIZE
ALL, READ, WRITE = Rights.ALL, Rights.READ, Rights.WRITE

Hole = tuple[int, int, int]


@st.composite
def memory_maps(draw: st.DrawFn) -> MemoryMap:
    if draw(st.integers(0, 4)) == 0:
        return MemoryMap.identity()
    regions = []
    start = 0
    while start < PAGES:
        length = draw(st.integers(1, min(4, PAGES - start)))
        if draw(st.integers(0, 5)):
            at = draw(st.integers(0, PAGES - length))
            rights = draw(st.sampled_from([ALL, ALL, READ, READ | WRITE, WRITE]))
            regions.append(Region(start * PAGE_SIZE, length * PAGE_SIZE, at * PAGE_SIZE, rights))
        start += length
    return MemoryMap(regions)


@st.composite
def towers(draw: st.DrawFn) -> tuple[list[MemoryMap], list[Hole]]:
    maps = draw(st.lists(memory_maps(), max_size=4))
    holes = []
    for _ in range(draw(st.integers(0, 3)) if maps else 0):
        first = draw(st.integers(0, RAM - 1))
        holes.append((draw(st.integers(1, len(maps))), first, min(first + draw(st.integers(0, 6000)), RAM - 1)))
    return maps, holes


def walk(maps: list[MemoryMap], address: int, level: int) -> Iterator[tuple[int, int]]:
    """(level, address) of an address of level `level`, from there down as far as it leads with any right at all."""
    rights = ALL
    yield level, address
    while level > 1:
        step = maps[level - 2].translate(address)
        if step is None or not rights & step[1]:
            return
        level, address, rights = level - 1, step[0], rights & step[1]
        yield level, address


def backing(maps: list[MemoryMap], holes: list[Hole], address: int, level: int) -> tuple[int, Rights] | None:
    """The offset in L0's memory, and the rights, with a hole of whole pages wherever a level claims addresses."""
    rights = ALL
    while level > 1:
        for claimant, first, last in holes:
            if claimant == level - 1 and first // PAGE_SIZE <= address // PAGE_SIZE <= last // PAGE_SIZE:
                return None
        step = maps[level - 2].translate(address)
        if step is None:
            return None
        level, address, rights = level - 1, step[0], rights & step[1]
    return (address, rights) if address < RAM and rights else None


def sample(seed: int) -> list[int]:
    """An address in each page, and one behind the last."""
    return [page * PAGE_SIZE + (seed * 977 + page * 331) % PAGE_SIZE for page in range(PAGES + 1)]


@given(towers(), st.integers(0, 4))
def test_an_address_is_carried_down_one_map_at_a_time(tower: tuple[list[MemoryMap], list[Hole]], seed: int) -> None:
    maps, holes = tower
    levels = LevelMaps(RAM, maps, holes)
    assert levels.height == len(maps) + 1
    for address in sample(seed):
        # claims' holes are passed: who declines hands the access down
        reached = dict(walk(maps, address, levels.height))
        for level in range(1, levels.height + 1):
            assert levels.carry(address, level) == reached.get(level)


@given(towers(), st.integers(0, RAM), st.integers(0, 3 * PAGE_SIZE))
def test_the_ranges_at_the_top_are_all_that_lead_to_a_levels_range(
    tower: tuple[list[MemoryMap], list[Hole]], first: int, length: int
) -> None:
    maps, holes = tower
    levels = LevelMaps(RAM, maps, holes)
    last = first + length
    edges = {page * PAGE_SIZE + step for page in range(PAGES + 1) for step in (0, first % PAGE_SIZE, last % PAGE_SIZE)}
    for level in range(1, levels.height + 1):
        ranges = levels.at_top(level, first, last)
        for address in {edge + delta for edge in edges for delta in (-1, 0, 1)} - {-1}:
            reached = levels.carry(address, level)
            inside = reached is not None and first <= reached <= last
            assert any(low <= address <= high for low, high in ranges) == inside


@given(towers(), st.integers(0, 4))
def test_each_levels_memory_is_what_the_levels_below_give_it(
    tower: tuple[list[MemoryMap], list[Hole]], seed: int
) -> None:
    maps, holes = tower
    levels = LevelMaps(RAM, maps, holes)
    for level in range(1, levels.height + 1):
        for address in sample(seed):
            assert levels.to_host(level).translate(address) == backing(maps, holes, address, level)


@settings(max_examples=60)
@given(towers(), st.integers(0, RAM + 100), st.integers(0, 3 * PAGE_SIZE), st.integers(1, 250))
def test_reading_and_writing_across_regions_is_byte_for_byte_the_models(
    tower: tuple[list[MemoryMap], list[Hole]], address: int, size: int, seed: int
) -> None:
    maps, holes = tower
    levels = LevelMaps(RAM, maps, holes)
    with HostMemory(RAM) as host:
        start = bytes(seed * (1 + offset // 256) + offset & 0xFF for offset in range(RAM))
        host.write(0, start)
        for level in range(1, levels.height + 1):
            memory = LevelMemory(level, levels.to_host(level), host)
            # by pages is enough for where a byte lies; the offset in the page is the address's own
            places = [backing(maps, holes, at, level) for at in range(address, address + size)]
            _read_as_model(memory, host.read(0, RAM), address, places)
            _write_as_model(memory, host, address, places, seed)


def _read_as_model(memory: LevelMemory, content: bytes, address: int, places: list[tuple[int, Rights] | None]) -> None:
    if all(place is not None and READ in place[1] for place in places):
        assert memory.read(address, len(places)) == bytes(content[place[0]] for place in places if place)
    else:
        with pytest.raises(GuestAccessError):
            memory.read(address, len(places))


def _write_as_model(
    memory: LevelMemory, host: HostMemory, address: int, places: list[tuple[int, Rights] | None], seed: int
) -> None:
    before = bytearray(host.read(0, RAM))
    data = bytes(seed + 7 * number & 0xFF for number in range(len(places)))
    if all(place is not None and WRITE in place[1] for place in places):
        memory.write(address, data)
        for place, byte in zip(places, data, strict=True):
            before[place[0] if place else -1] = byte
    else:
        with pytest.raises(GuestAccessError):
            memory.write(address, data)
    assert host.read(0, RAM) == before


def test_nothing_is_written_before_the_whole_range_is_known_to_be_there() -> None:
    two = MemoryMap([Region(0, PAGE_SIZE, PAGE_SIZE), Region(PAGE_SIZE, PAGE_SIZE, 0, READ)])
    with HostMemory(2 * PAGE_SIZE) as host:
        memory = LevelMemory(3, two, host)
        with pytest.raises(GuestAccessError, match=r"^L3 physical address 0x1000 does not give that right$"):
            memory.write(PAGE_SIZE - 2, b"abcd")
        with pytest.raises(GuestAccessError, match=r"^L3 physical address 0x2000 is not backed by memory$"):
            memory.write(2 * PAGE_SIZE, b"a")
        assert host.read(0, 2 * PAGE_SIZE) == bytes(2 * PAGE_SIZE)
        memory.write(PAGE_SIZE - 2, b"ab")
        assert host.read(2 * PAGE_SIZE - 2, 2) == b"ab"


@pytest.mark.parametrize(("address", "size"), [(-1, 1), (0, -1)])
def test_negative_ranges_are_refused(address: int, size: int) -> None:
    with HostMemory(PAGE_SIZE) as host, pytest.raises(GuestAccessError, match="negative"):
        LevelMemory(2, MemoryMap.identity(), host).read(address, size)


def test_a_huge_read_fails_at_once_where_memory_ends() -> None:
    with HostMemory(PAGE_SIZE) as host:
        memory = LevelMemory(1, MemoryMap([Region(0, PAGE_SIZE, 0)]), host)
        with pytest.raises(GuestAccessError, match="0x1000 is not backed"):
            memory.read(0, 1 << 60)
        assert memory.read(0, 0) == b""


def test_slots_are_level_ns() -> None:
    levels = LevelMaps(RAM, [MemoryMap([Region(0, 4 * PAGE_SIZE, 2 * PAGE_SIZE)])], [(1, PAGE_SIZE, PAGE_SIZE)])
    assert [tuple(slot) for slot in levels.slots()] == [
        (0, PAGE_SIZE, 2 * PAGE_SIZE, False, True),
        (2 * PAGE_SIZE, 2 * PAGE_SIZE, 4 * PAGE_SIZE, False, True),
    ]


def test_what_level_0_claims_makes_no_hole() -> None:
    assert LevelMaps(RAM, [], [(0, 0, 100)]).to_host(1).translate(0) == (0, ALL)


def test_a_range_beyond_the_architectures_addresses_is_cut_there() -> None:
    levels = LevelMaps(RAM, [MemoryMap([Region(0, RAM, 0)])])
    assert levels.at_top(1, 0, (1 << 64) - 1) == [(0, RAM - 1)]
    assert levels.at_top(2, 0, (1 << 64) - 1) == [(0, (1 << 64) - 1)]
    assert levels.at_top(1, ADDRESS_END - 1, ADDRESS_END + 5) == []
