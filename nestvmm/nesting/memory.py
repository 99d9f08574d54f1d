"""Which physical memory each level gives to the level above it, and all those maps composed to one.

The hypervisor at level x maps level x+1's physical addresses ("upper") to level x's ("lower"). L0's own map takes level
1's addresses to offsets into the one host mapping that holds all RAM. Composed over all levels they take level n's
addresses to those offsets, and `slots` gives what KVM_SET_USER_MEMORY_REGION wants. A map's lower addresses mean only
what the level below made of them, so no level can reach memory that the level below did not give it.

Addresses, sizes and offsets are bytes; a range "first to last" includes both ends. All values here are immutable.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final, NamedTuple

from nestvmm.errors import UsageError
from nestvmm.x86.layout import RAM_ABOVE_4G, RAM_BELOW_4G_MAX
from nestvmm.x86.rights import Rights
from nestvmm.x86.spans import Span, minus

__all__ = [
    "ADDRESS_END",
    "PAGE_SIZE",
    "REGIONS_MAX",
    "MemoryMap",
    "Region",
    "Slot",
    "compose",
    "compose_all",
    "ram_map",
    "slots",
]

PAGE_SIZE: Final = 4096
ADDRESS_END: Final = 1 << 52  # one past the highest physical address that the architecture allows (AMD APM vol. 2, 5.1)
REGIONS_MAX: Final = 32764  # KVM_USER_MEM_SLOTS on x86: a composed map with more regions could not be programmed


@dataclass(frozen=True, slots=True)
class Region:
    """Upper addresses [base, base + size) are lower addresses [at, at + size), with these rights.

    Raises UsageError unless all three are whole pages, both ranges lie in 0 to 2**52 - 1 and there is a right at all:
    what gives none is a hole, and a hole has no region.
    """

    base: int
    size: int
    at: int
    rights: Rights = Rights.ALL

    def __post_init__(self) -> None:
        """Refuse what no page table and no memory slot can express."""
        wrong = self._wrong()
        if wrong:
            raise UsageError(f"memory region base {self.base:#x} size {self.size:#x} at {self.at:#x}: {wrong}")

    def _wrong(self) -> str | None:
        for name, value in (("base", self.base), ("size", self.size), ("at", self.at)):
            if value % PAGE_SIZE:
                return f"{name} is no multiple of the page size, {PAGE_SIZE:#x}; give whole pages"
        if self.size <= 0:
            return "size must be positive"
        for name, first in (("base", self.base), ("at", self.at)):
            if first < 0 or first + self.size > ADDRESS_END:
                return f"the range at {name} leaves the physical addresses, 0 to {ADDRESS_END - 1:#x}"
        if not self.rights:
            return "it gives no right; leave the region out to make a hole"
        return None

    @property
    def last(self) -> int:
        """The last upper address."""
        return self.base + self.size - 1

    def continues(self, before: Region) -> bool:
        """Whether this region and the one before it are one: without a gap on either side, with the same rights."""
        return (self.base, self.at, self.rights) == (before.base + before.size, before.at + before.size, before.rights)


_BASE = attrgetter("base")
_LAST = attrgetter("last")


@dataclass(frozen=True, slots=True, init=False)
class MemoryMap:
    """Regions with disjoint upper ranges, in ascending order; addresses in none of them are holes.

    Neighbours that continue each other are one region, so equal maps translate equally and the other way round. Lower
    ranges may overlap: two regions that alias the same memory.
    """

    regions: tuple[Region, ...]

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        """Raise UsageError, with both ranges, if two upper ranges overlap."""
        joined: list[Region] = []
        for region in sorted(regions, key=_BASE):
            before = joined[-1] if joined else None
            if before and region.base <= before.last:
                raise UsageError(
                    f"memory regions {before.base:#x}-{before.last:#x} and {region.base:#x}-{region.last:#x} overlap: "
                    "an address can lead to one place only; shorten or move one of them"
                )
            if before and region.continues(before):
                joined[-1] = replace(before, size=before.size + region.size)
            else:
                joined.append(region)
        object.__setattr__(self, "regions", tuple(joined))

    @classmethod
    def identity(cls) -> MemoryMap:
        """All physical addresses, each at itself, with all rights: a level that gives its guest everything it has."""
        return cls((Region(0, ADDRESS_END, 0),))

    def overlapping(self, first: int, last: int) -> tuple[Region, ...]:
        """The regions that hold upper addresses of the range first to last."""
        return self.regions[bisect_left(self.regions, first, key=_LAST) : bisect_right(self.regions, last, key=_BASE)]

    def translate(self, address: int) -> tuple[int, Rights] | None:
        """The lower address of an upper one and the rights there; None in a hole."""
        for region in self.overlapping(address, address):
            return address - region.base + region.at, region.rights
        return None

    def given(self, region: Region) -> MemoryMap:
        """This map with the region in the place of what was at its upper range."""
        return MemoryMap((*self.without(region.base, region.last).regions, region))

    def protected(self, first: int, last: int, rights: Rights) -> MemoryMap:
        """This map with these rights wherever it has a region in the upper range first to last, of whole pages."""
        outside = self.without(first, last)
        if not rights:
            return outside
        inside = [
            replace(
                region,
                base=max(region.base, first),
                size=min(region.last, last) - max(region.base, first) + 1,
                at=region.at + max(first - region.base, 0),
                rights=rights,
            )
            for region in self.overlapping(first, last)
        ]
        return MemoryMap((*outside.regions, *inside))

    def withheld(self, first: int, last: int) -> list[Span]:
        """Where the upper range first to last has no region, or one that does not give all rights."""
        full = [(one.base, one.last) for one in self.overlapping(first, last) if one.rights == Rights.ALL]
        return minus([(first, last)], full)

    def without(self, first: int, last: int) -> MemoryMap:
        """This map with a hole at the upper range first to last, widened to whole pages.

        A level that claims physical addresses to emulate a device there must not back them with memory.
        """
        if not 0 <= first <= last < ADDRESS_END:
            raise UsageError(
                f"memory hole {first:#x}-{last:#x}: give a first and a last address, "
                f"in this order, between 0 and {ADDRESS_END - 1:#x}"
            )
        hole = first - first % PAGE_SIZE
        end = last - last % PAGE_SIZE + PAGE_SIZE
        kept: list[Region] = []
        for region in self.regions:
            if region.base < hole:
                kept.append(replace(region, size=min(region.last + 1, hole) - region.base))
            if region.last >= end:
                skipped = max(end - region.base, 0)
                kept.append(
                    replace(region, base=region.base + skipped, size=region.size - skipped, at=region.at + skipped)
                )
        return MemoryMap(kept)

    def preimage(self, first: int, last: int) -> list[tuple[int, int]]:
        """All upper addresses that lead into the lower range first to last, as ascending ranges that do not touch."""
        ranges: list[tuple[int, int]] = []
        for region in self.regions:
            low = max(first, region.at) - region.at + region.base
            high = min(last, region.at + region.size - 1) - region.at + region.base
            if low > high:
                continue
            if ranges and low == ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], high)
            else:
                ranges.append((low, high))
        return ranges


def compose(upper: MemoryMap, lower: MemoryMap) -> MemoryMap:
    """The map from upper's upper to lower's lower addresses: through both, with the rights that both give.

    Raises UsageError if that takes more than REGIONS_MAX regions.
    """
    pieces: list[Region] = []
    for region in upper.regions:
        for below in lower.overlapping(region.at, region.at + region.size - 1):
            first = max(region.at, below.base)
            size = min(region.at + region.size, below.base + below.size) - first
            rights = region.rights & below.rights
            if rights:
                pieces.append(Region(first - region.at + region.base, size, first - below.base + below.at, rights))
        if len(pieces) > REGIONS_MAX:
            raise UsageError(
                f"the memory maps of two levels, {len(upper.regions)} regions above {len(lower.regions)}, compose to "
                f"more than the {REGIONS_MAX} that KVM can hold; give memory in fewer and larger regions"
            )
    return MemoryMap(pieces)


def compose_all(maps: Iterable[MemoryMap]) -> MemoryMap:
    """All maps as one; the lowest level's map comes first. Of no maps: the identity."""
    composed = MemoryMap.identity()
    for upper in maps:
        composed = compose(upper, composed)
    return composed


def ram_map(size: int) -> MemoryMap:
    """L0's map: level 1's RAM of `size` bytes, where a PC has it, at offsets 0 to size - 1 of the host mapping.

    RAM beyond RAM_BELOW_4G_MAX continues at RAM_ABOVE_4G, above the devices' addresses.
    """
    below = min(size, RAM_BELOW_4G_MAX)
    regions = [Region(0, below, 0)]
    if size > below:
        regions.append(Region(RAM_ABOVE_4G, size - below, below))
    return MemoryMap(regions)


class Slot(NamedTuple):
    """One memory slot: guest-physical [guest_address, guest_address + size) is the host mapping from `offset` on."""

    guest_address: int
    size: int
    offset: int
    readonly: bool
    executable: bool = True


def slots(composed: MemoryMap) -> tuple[Slot, ...]:
    """The memory slots of level n's map over the host mapping, ascending.

    A slot of KVM's can withhold writing, but neither reading nor execution. A region without READ becomes a hole, whose
    accesses reach L0 as MMIO: nested page tables cannot give the other rights without it either.
    """
    return tuple(
        Slot(region.base, region.size, region.at, Rights.WRITE not in region.rights, Rights.EXECUTE in region.rights)
        for region in composed.regions
        if Rights.READ in region.rights
    )
