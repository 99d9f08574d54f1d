"""Compiles a DesignationTable to the flat one that the C run loop looks up (native/table.h).

The order of turns is resolved here, once per policy: every range of qualifiers gets the head of a chain of claims.
Chains share their tails, so a tower's height costs nothing at look-up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.errors import UsageError
from nestvmm.nesting.designation import QUALIFIER_MAX, Claim, DesignationTable, Handler, Scope, in_turn
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["FlatTable", "compile_table"]

_PORTS = 65536
_NODES_MAX = 0xFFFF
_DIRECTIONS = (Direction.READ, Direction.WRITE)


class _Interval(NamedTuple):
    first: int
    last: int
    chain: tuple[int, ...]


class FlatTable:
    """The C table and what it points at, alive as long as this object.

    table:   the cffi `struct nv_table *`
    claims:  the Claim of each counter slot from `first_slot` on; those of an earlier table that this one lacks, too
    """

    first_slot: int = lib.NV_REASONS

    def __init__(self, designation: DesignationTable, earlier: Sequence[Claim] = ()) -> None:
        self.designation = designation
        self.claims, self._numbers = _number(designation.claims, earlier)
        self.slots: int = self.first_slot + len(self.claims)
        self.table: Any = ffi.new("struct nv_table *")
        self._chains: dict[tuple[int, ...], int] = {(): 0}
        self._nodes: list[tuple[int, int]] = [(0, 0)]
        self._keep: list[Any] = []
        self._fill()

    def claim(self, slot: int) -> Claim | None:
        """The claim that a counter slot belongs to; None for a slot of unclaimed events."""
        return self.claims[slot - self.first_slot] if slot >= self.first_slot else None

    def by_slot(self) -> list[Claim | None]:
        """The claim of each counter slot."""
        return [self.claim(slot) for slot in range(self.slots)]

    def handlers(self) -> tuple[Handler | None, ...]:
        """The handler of each counter slot; None: there is none in Python."""
        return tuple(
            None if claim is None or isinstance(claim.handler, Server) else claim.handler for claim in self.by_slot()
        )

    def _fill(self) -> None:
        claims, ceilings = (_by_reason(entries) for entries in (self.designation.claims, self.designation.ceilings))
        for reason in ExitReason:
            if reason is not ExitReason.IO and reason not in claims:
                continue
            for direction in _DIRECTIONS:
                intervals = self._intervals(claims[reason], ceilings[reason], direction)
                if reason is ExitReason.IO:
                    self.table.ports[direction] = self._ports(intervals)
                elif intervals:
                    self._ranges(reason, direction, intervals)
        served = [number for number, claim in enumerate(self.claims) if isinstance(claim.handler, Server)]
        servers = dict(zip(served, range(1, len(served) + 1), strict=True))
        server_array = self._new("struct nv_server[]", len(servers) + 1)
        for number, index in servers.items():
            server: Any = self.claims[number].handler
            server_array[index].serve = server.serve
            server_array[index].device = server.device
            server_array[index].base = self.claims[number].scope.first
        claim_array = self._new("struct nv_claim[]", len(self._nodes))
        for node, (claim_index, following) in enumerate(self._nodes):
            if not node:
                continue
            claim = self.claims[claim_index]
            claim_array[node].next = following
            claim_array[node].slot = self.first_slot + claim_index
            claim_array[node].server = servers.get(claim_index, 0)
            claim_array[node].level = claim.level
            claim_array[node].fallback = claim.fallback
        self.table.servers = server_array
        self.table.claims = claim_array

    def _new(self, kind: str, size: int) -> Any:
        array = ffi.new(kind, size)
        self._keep.append(array)
        return array

    def _chain(self, chain: tuple[int, ...]) -> int:
        """The node that starts this order of turns; equal tails are one."""
        known = next(start for start in range(len(chain) + 1) if chain[start:] in self._chains)
        node = self._chains[chain[known:]]
        for start in range(known - 1, -1, -1):
            following, node = node, len(self._nodes)
            if node > _NODES_MAX:
                raise UsageError(
                    f"{len(self.claims)} claims overlap in too many ways: their orders of turns need more than "
                    f"{_NODES_MAX} entries; let hypervisors claim fewer and wider ranges"
                )
            self._nodes.append((chain[start], following))
            self._chains[chain[start:]] = node
        return node

    def _projected(self, entries: Iterable[Any], direction: Direction) -> list[tuple[Any, Scope]]:
        return [
            (entry, scope)
            for entry in entries
            if entry.scope.includes(direction)
            for scope in self.designation.projected(entry.level, entry.scope)
        ]

    def _intervals(
        self, claims_of: Iterable[Claim], ceilings_of: Iterable[Any], direction: Direction
    ) -> list[_Interval]:
        """Disjoint sorted intervals of a reason, with the order of turns in each; none where nobody claims anything."""
        claims = self._projected(claims_of, direction)
        ceilings = self._projected(ceilings_of, direction)
        if not claims:
            return []
        edges = sorted({edge for _, scope in claims + ceilings for edge in (scope.first, scope.last + 1)})
        present: list[list[Claim]] = [[] for _ in edges]
        top: list[int | None] = [None] * len(edges)
        for claim, scope in claims:
            for position in range(bisect_left(edges, scope.first), bisect_left(edges, scope.last + 1)):
                present[position].append(claim)
        for ceiling, scope in ceilings:
            for position in range(bisect_left(edges, scope.first), bisect_left(edges, scope.last + 1)):
                known = top[position]
                top[position] = ceiling.level if known is None else min(known, ceiling.level)
        intervals: list[_Interval] = []
        for position, first in enumerate(edges[:-1]):
            limit = top[position]
            turns = in_turn(claim for claim in present[position] if limit is None or claim.level <= limit)
            chain = tuple(self._numbers[id(claim)] for claim in turns)
            last = edges[position + 1] - 1
            if intervals and intervals[-1].last + 1 == first and intervals[-1].chain == chain:
                intervals[-1] = _Interval(intervals[-1].first, last, chain)
            elif chain:
                intervals.append(_Interval(first, last, chain))
        return intervals

    def _ports(self, intervals: list[_Interval]) -> Any:
        ports = self._new("uint16_t[]", _PORTS)
        view = memoryview(ffi.buffer(ports)).cast("H")
        for interval in intervals:
            last = min(interval.last, _PORTS - 1)
            node = self._chain(interval.chain)
            count = last - interval.first + 1
            if count > 0:
                view[interval.first : last + 1] = memoryview(node.to_bytes(2, "little") * count).cast("H")
        return ports

    def _ranges(self, reason: ExitReason, direction: Direction, intervals: list[_Interval]) -> None:
        array = self._new("struct nv_range[]", len(intervals))
        for entry, interval in zip(array, intervals, strict=True):
            entry.first = interval.first
            entry.last = min(interval.last, QUALIFIER_MAX)
            entry.claim = self._chain(interval.chain)
        ranges = self.table.ranges[reason][direction]
        ranges.range = array
        ranges.count = len(intervals)


def _by_reason(entries: Iterable[Any]) -> defaultdict[ExitReason, list[Any]]:
    """Claims, or ceilings, by the reason of their scope."""
    found = defaultdict(list)
    for entry in entries:
        found[entry.scope.reason].append(entry)
    return found


def _number(claims: Sequence[Claim], earlier: Sequence[Claim]) -> tuple[list[Claim], dict[int, int]]:
    """All claims by the number of their counter, and the numbers of `claims`, by id.

    One with the level, scope and name of an earlier one takes over its number, so that counters go on.
    """
    known: dict[tuple[int, Scope, str], deque[int]] = defaultdict(deque)
    for number, claim in enumerate(earlier):
        known[claim.level, claim.scope, claim.who].append(number)
    numbered = list(earlier)
    numbers = {}
    for claim in claims:
        free = known[claim.level, claim.scope, claim.who]
        number = free.popleft() if free else len(numbered)
        numbered[number : number + 1] = [claim]
        numbers[id(claim)] = number
    return numbered, numbers


def compile_table(designation: DesignationTable, earlier: Sequence[Claim] = ()) -> FlatTable:
    """The flat form of a designation table, whose claims keep the counters that they had among the `earlier` ones.

    Raises UsageError when the orders of turns take more entries than an event can number.
    """
    return FlatTable(designation, earlier)
