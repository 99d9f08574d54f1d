"""Routing: the pure definition and the flat table in C against a naive walk from level n-1 down to L0."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.errors import UsageError
from nestvmm.hypervisors import HANDLED, Event, Result
from nestvmm.nesting.designation import QUALIFIER_MAX, Ceiling, Claim, DesignationTable, Scope
from nestvmm.nesting.flat import FlatTable, compile_table
from nestvmm.nesting.memory import ADDRESS_END, PAGE_SIZE, MemoryMap, Region
from nestvmm.nesting.policy import Policy
from nestvmm.nesting.spec import GuestSpec, LevelSpec, TowerSpec
from nestvmm.nesting.tower_maps import TowerMaps
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier

PAGES = 12
R, W, X = Direction.READ, Direction.WRITE, Direction.EXECUTE
IO, MMIO = ExitReason.IO, ExitReason.MMIO


def handle(_event: Event) -> Result:
    return HANDLED


class Tower(NamedTuple):
    """A tower's routing: claims of levels 0 to n-1 and the maps of levels 1 to n-1, the lowest first."""

    claims: list[Claim]
    ceilings: list[Ceiling]
    maps: list[MemoryMap]

    @property
    def table(self) -> DesignationTable:
        """As Policy makes it, which also projects physical ranges to level n."""
        policy = Policy(TowerSpec(GuestSpec(kernel=None), (LevelSpec("none"),) * len(self.maps)), [])  # type: ignore[arg-type]
        policy.claims = [claim for claim in self.claims if claim.level]
        policy.ceilings = self.ceilings
        maps = TowerMaps(PAGE_SIZE, dict(enumerate(self.maps, start=1)), (len(self.maps) + 1,))
        return policy.table([claim for claim in self.claims if not claim.level], maps)


class Probe(NamedTuple):
    reason: ExitReason
    qualifier: int
    direction: Direction


def naive(tower: Tower, probe: Probe) -> list[Claim]:
    """Level by level from the top, the address carried down one map at a time."""
    physical = REASONS[probe.reason].qualifier is Qualifier.PHYSICAL
    write = probe.direction is W

    def meets(scope: Scope, address: int | None) -> bool:
        if scope.reason is not probe.reason or (scope.direction is not None and (scope.direction is W) != write):
            return False
        if address is None:
            return False
        return scope.first <= address <= scope.last

    found: list[Claim] = []
    address: int | None = probe.qualifier
    barred: set[int] = set()
    for level in range(len(tower.maps), -1, -1):
        # `address` is that of level `level` + 1
        for ceiling in tower.ceilings:
            # a ceiling of L0 on everything holds for what leads nowhere, too
            everything = level == 0 and (ceiling.scope.first, ceiling.scope.last) == (0, QUALIFIER_MAX)
            if ceiling.level == level and meets(ceiling.scope, probe.qualifier if everything else address):
                barred.update(range(level + 1, len(tower.maps) + 1))
        here = [claim for claim in tower.claims if claim.level == level]
        if level == 0 and physical:
            # L0 also takes what leads nowhere when it takes everything
            whole = [claim for claim in here if (claim.scope.first, claim.scope.last) == (0, QUALIFIER_MAX)]
            here = [
                claim
                for claim in here
                if meets(claim.scope, address) or (claim in whole and meets(claim.scope, probe.qualifier))
            ]
        else:
            here = [claim for claim in here if meets(claim.scope, address)]
        found += sorted(here, key=lambda claim: claim.scope.last - claim.scope.first)
        if physical and address is not None and level > 0:
            step = tower.maps[level - 1].translate(address)
            address = None if step is None else step[0]
    return [claim for claim in found if claim.level not in barred]


def chain(flat: FlatTable, probe: Probe) -> list[Claim]:
    """The order of turns as C walks it."""
    event = ffi.new(
        "struct nv_event *", {"reason": probe.reason, "qualifier": probe.qualifier, "direction": probe.direction}
    )
    node = lib.nv_table_lookup(flat.table, event)
    turns = []
    while node:
        entry = flat.table.claims[node]
        claim = flat.claim(entry.slot)
        assert claim is not None
        assert entry.level == claim.level
        turns.append(claim)
        node = entry.next
    return turns


@st.composite
def memory_maps(draw: st.DrawFn) -> MemoryMap:
    if draw(st.integers(0, 3)) == 0:
        return MemoryMap.identity()
    regions = []
    start = 0
    while start < PAGES:
        length = draw(st.integers(1, min(4, PAGES - start)))
        if draw(st.integers(0, 4)):
            at = draw(st.integers(0, PAGES - length))
            regions.append(Region(start * PAGE_SIZE, length * PAGE_SIZE, at * PAGE_SIZE))
        start += length
    return MemoryMap(regions)


_UNIVERSE = {
    Qualifier.PORT: st.integers(0, 0x30) | st.sampled_from([0xFFFE, 0xFFFF]),
    Qualifier.MSR: st.integers(0, 0x30) | st.sampled_from([0xC0000080, 0xFFFFFFFF]),
    Qualifier.PHYSICAL: st.integers(0, (PAGES + 2) * 4).map(lambda quarter: quarter * PAGE_SIZE // 4),
    Qualifier.VECTOR: st.integers(0, 31) | st.just(255),
    Qualifier.INSTRUCTION: st.integers(0, 0x30).map(lambda byte: byte << 56) | st.integers(0, QUALIFIER_MAX),
    Qualifier.NONE: st.just(0),
}
_OTHER = st.integers(0, 0x30) | st.just(QUALIFIER_MAX)
_REASONS = (
    IO,
    MMIO,
    ExitReason.RDMSR,
    ExitReason.HLT,
    ExitReason.DEBUG,
    ExitReason.EMULATION_FAILURE,
    ExitReason.CPUID,
)


def qualifiers(reason: ExitReason) -> st.SearchStrategy[int]:
    return _UNIVERSE.get(REASONS[reason].qualifier, _OTHER)


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    reason = draw(st.sampled_from(_REASONS))
    direction = draw(st.sampled_from([None, None, R, W, X]))
    if draw(st.integers(0, 4)) == 0 or REASONS[reason].qualifier is Qualifier.NONE:
        return Scope(reason, direction=direction)
    first, last = sorted((draw(qualifiers(reason)), draw(qualifiers(reason))))
    if REASONS[reason].qualifier is Qualifier.PHYSICAL:
        last += PAGE_SIZE // 4 - 1
    return Scope(reason, first, last, direction)


@st.composite
def towers(draw: st.DrawFn) -> Tower:
    maps = draw(st.lists(memory_maps(), max_size=5))
    levels = st.integers(0, len(maps))
    claims = draw(st.lists(st.builds(Claim, levels, scopes(), st.just(handle), st.uuids().map(str)), max_size=12))
    ceilings = draw(st.lists(st.builds(Ceiling, levels, scopes()), max_size=4))
    return Tower(claims, ceilings, maps)


@st.composite
def probes(draw: st.DrawFn) -> Probe:
    reason = draw(st.sampled_from(_REASONS))
    qualifier = draw(qualifiers(reason))
    if REASONS[reason].qualifier is Qualifier.PHYSICAL:
        qualifier += draw(st.integers(0, 3))
    return Probe(reason, qualifier, draw(st.sampled_from([R, W, X])))


@settings(max_examples=150)
@given(towers(), st.lists(probes(), min_size=1, max_size=20))
@example(
    Tower([Claim(1, Scope(MMIO), handle)], [Ceiling(0, Scope(MMIO))], [MemoryMap.identity(), MemoryMap()]),
    [Probe(MMIO, 0, R)],
)
def test_definition_and_flat_table_route_as_the_levels_do_one_by_one(tower: Tower, events: list[Probe]) -> None:
    table = tower.table
    flat = compile_table(table)
    for event in events:
        expected = naive(tower, event)
        assert table.route(*event) == expected
        assert chain(flat, event) == expected


@settings(max_examples=60)
@given(towers())
def test_table_has_the_edges_of_every_claim(tower: Tower) -> None:
    """Off-by-one errors show at the first and last qualifiers of what was projected."""
    table = tower.table
    flat = compile_table(table)
    for claim in (*tower.claims, *tower.ceilings):
        for scope in table.projected(claim.level, claim.scope):
            # the engine hands over ports below 64 Ki only, as the architecture does
            edges = {scope.first - 1, scope.first, scope.last, scope.last + 1}
            for qualifier in edges & set(_within(scope.reason, edges)):
                for direction in (R, W):
                    probe = Probe(scope.reason, qualifier, direction)
                    assert chain(flat, probe) == table.route(*probe)


def _within(reason: ExitReason, edges: set[int]) -> list[int]:
    highest = 0xFFFF if reason is IO else QUALIFIER_MAX
    return [edge for edge in edges if 0 <= edge <= highest]


def claim(level: int, reason: ExitReason, first: int = 0, last: int = QUALIFIER_MAX, way: Any = None) -> Claim:
    return Claim(level, Scope(reason, first, last, way), handle, f"L{level}")


def test_the_highest_level_comes_first_and_in_a_level_the_narrowest() -> None:
    wide, narrow, low, zero = (
        claim(2, IO, 0, 0xFF),
        claim(2, IO, 0x60, 0x64),
        claim(1, IO, 0x64, 0x64),
        claim(0, IO),
    )
    table = DesignationTable((zero, low, wide, narrow))
    assert table.route(IO, 0x64) == [narrow, wide, low, zero]
    assert table.route(IO, 0x63) == [narrow, wide, zero]
    assert table.route(IO, 0x65) == [wide, zero]
    assert table.route(IO, 0x100) == [zero]
    assert table.route(MMIO, 0x64) == []


def test_a_ceiling_takes_events_from_all_levels_above_it() -> None:
    claims = tuple(claim(level, IO) for level in (0, 1, 2, 3))
    table = DesignationTable(claims, (Ceiling(1, Scope(IO, 0x80, 0x8F)), Ceiling(2, Scope(IO, 0x88, 0x90, W))))
    assert [one.level for one in table.route(IO, 0x7F, W)] == [3, 2, 1, 0]
    assert [one.level for one in table.route(IO, 0x80, R)] == [1, 0]
    assert [one.level for one in table.route(IO, 0x88, W)] == [1, 0], "of two ceilings the lower"
    assert [one.level for one in table.route(IO, 0x90, W)] == [2, 1, 0]
    assert [one.level for one in table.route(IO, 0x90, R)] == [3, 2, 1, 0]
    flat = compile_table(table)
    for qualifier in (0x7F, 0x80, 0x88, 0x8F, 0x90, 0x91):
        for way in (R, W):
            assert chain(flat, Probe(IO, qualifier, way)) == table.route(IO, qualifier, way)


def test_a_direction_is_part_of_the_scope_and_execute_counts_as_read() -> None:
    reads, writes = claim(1, MMIO, 0, 7, R), claim(1, MMIO, 0, 7, W)
    table = DesignationTable((reads, writes))
    assert table.route(MMIO, 3, R) == table.route(MMIO, 3, X) == [reads]
    assert table.route(MMIO, 3, W) == [writes]


def test_an_address_is_looked_up_where_the_claiming_level_has_it() -> None:
    # level 3's page 5 is level 2's page 2, and that is level 1's page 9
    maps = [MemoryMap([Region(0x2000, 0x1000, 0x9000)]), MemoryMap([Region(0x5000, 0x1000, 0x2000)])]
    tower = Tower(
        [claim(2, MMIO, 0x5010, 0x501F), claim(1, MMIO, 0x2018, 0x2FFF), claim(0, MMIO, 0x9FFF, 0x9FFF)], [], maps
    )
    table = tower.table
    assert [one.level for one in table.route(MMIO, 0x5010)] == [2]
    assert [one.level for one in table.route(MMIO, 0x5018)] == [2, 1]
    assert [one.level for one in table.route(MMIO, 0x5020)] == [1]
    assert [one.level for one in table.route(MMIO, 0x5FFF)] == [1, 0]
    assert table.route(MMIO, 0x2018) == table.route(MMIO, 0x9FFF) == []
    assert table.projected(0, Scope(MMIO, 0x9FFF, 0x9FFF)) == [Scope(MMIO, 0x5FFF, 0x5FFF)]


def test_l0_takes_a_fault_without_an_address() -> None:
    fault = ExitReason.MEMORY_FAULT
    one_page = MemoryMap([Region(0, PAGE_SIZE, 0)])
    tower = Tower([claim(0, fault), claim(1, fault)], [], [one_page, one_page])
    assert [one.level for one in tower.table.route(fault, QUALIFIER_MAX)] == [0]
    assert [one.level for one in chain(compile_table(tower.table), Probe(fault, QUALIFIER_MAX, R))] == [0]
    assert [one.level for one in tower.table.route(fault, 5)] == [1, 0]


def test_a_tall_tower_of_claims_shares_the_tails_of_its_chains() -> None:
    claims = tuple(claim(level, IO, 0, 0xFFFF - 16 * level) for level in range(64))
    flat = compile_table(DesignationTable(claims))
    assert [one.level for one in chain(flat, Probe(IO, 0, R))] == list(range(63, -1, -1))
    assert [one.level for one in chain(flat, Probe(IO, 0xFFFF - 16 * 10, R))] == list(range(10, -1, -1))
    # one node for each level and no more: both directions share them
    assert flat.table.ports[0][0] == flat.table.ports[1][0] == 64


def test_counter_slots_belong_to_claims_behind_the_reasons() -> None:
    first, second = claim(0, IO), claim(1, MMIO)
    flat = compile_table(DesignationTable((first, second)))
    behind = len(ExitReason)
    assert (flat.first_slot, flat.slots) == (behind, behind + 2)
    assert [flat.claim(slot) for slot in (0, behind - 1, behind, behind + 1)] == [None, None, first, second]


def test_claims_keep_their_counters_when_others_come_and_go() -> None:
    first, second, third = claim(0, IO), claim(1, MMIO), claim(2, IO)
    before = compile_table(DesignationTable((first, second)))
    after = compile_table(DesignationTable((third, second)), before.claims)
    assert after.claims == [first, second, third]
    again = compile_table(DesignationTable((first, third)), after.claims)
    assert again.claims == [first, second, third]
    assert again.slots == after.slots == before.slots + 1
    assert chain(again, Probe(IO, 0, R)) == [third, first]
    assert chain(after, Probe(IO, 0, R)) == [third]


def test_one_server_at_two_places_has_the_base_of_each() -> None:
    server = Server(ffi.addressof(lib, "nv_ignore_serve"), ffi.NULL)
    low = Claim(0, Scope(IO, 0x80, 0x80), server, "ignore")
    high = Claim(0, Scope(IO, 0x300, 0x30F), server, "ignore")
    flat = compile_table(DesignationTable((low, high)))
    bases = {}
    for port in (0x80, 0x300, 0x30F):
        node = flat.table.claims[flat.table.ports[0][port]]
        bases[port] = flat.table.servers[node.server].base
    assert bases == {0x80: 0x80, 0x300: 0x300, 0x30F: 0x300}
    assert flat.table.claims[0].server == 0


def test_more_orders_of_turns_than_a_claim_can_number_are_refused() -> None:
    # at every edge another claim joins or leaves the middle of a chain of some 300, so few tails are shared
    claims = tuple(claim(0, MMIO, number, number + 300 + number * 7919 % 101) for number in range(900))
    with pytest.raises(UsageError, match="900 claims overlap in too many ways"):
        compile_table(DesignationTable(claims))


def test_many_claims_on_one_qualifier_are_one_long_chain() -> None:
    claims = tuple(claim(0, MMIO, 0, 10 + number) for number in range(1100))
    assert chain(compile_table(DesignationTable(claims)), Probe(MMIO, 5, R)) == list(claims)


@pytest.mark.parametrize(
    ("scope", "label"),
    [
        (Scope(IO), "*"),
        (Scope(IO, direction=W), "*:w"),
        (Scope(IO, 0x3F8, 0x3FF), "0x3f8-0x3ff"),
        (Scope(IO, 0x64, 0x64, W), "0x64:w"),
        (Scope(IO, 0x60, 0x60, R), "0x60:r"),
        (Scope(ExitReason.HLT), "*"),
        (Scope(ExitReason.HLT, 0, 0), "*"),
        (Scope(ExitReason.RDMSR, 0xC0000080, 0xC0000080), "0xc0000080"),
        (Scope(MMIO, 0xD0000000, 0xD0000FFF), "0xd0000000-0xd0000fff"),
        (Scope(ExitReason.EMULATION_FAILURE, 0x0FB8 << 48, (0x0FB8 << 48) + (1 << 48) - 1), "0fb8"),
        (Scope(ExitReason.EMULATION_FAILURE, 0x1122334455667788, 0x1122334455667788), "1122334455667788"),
    ],
)
def test_label_is_the_qualifier_as_users_write_it(scope: Scope, label: str) -> None:
    assert scope.label == label


def test_reasons_are_those_of_the_levels_above_l0() -> None:
    table = DesignationTable((claim(0, IO), claim(1, MMIO), claim(3, ExitReason.HLT)))
    assert table.reasons() == {MMIO, ExitReason.HLT}


def test_addresses_end_where_the_architecture_ends_them() -> None:
    tower = Tower([claim(1, MMIO, ADDRESS_END - 4, ADDRESS_END - 1)], [], [MemoryMap.identity()])
    assert [one.level for one in tower.table.route(MMIO, ADDRESS_END - 1)] == [1]
    assert tower.table.route(MMIO, ADDRESS_END - 5) == []
