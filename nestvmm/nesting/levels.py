"""The levels of a tower as memory: what each one sees, and how an address is carried between them.

    level n ──map of hypervisor n-1──> level n-1 ── ... ──> level 1 ──L0's map──> offset in L0's memory

Two families of the same maps: for *backing*, a hypervisor that claims physical addresses has a hole there; for
*routing*, an address goes through every map between, holes of claims included, since a claim that declines hands the
access down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from nestvmm.hypervisors import GuestAccessError
from nestvmm.nesting.memory import ADDRESS_END, PAGE_SIZE, MemoryMap, Slot, compose, compose_all, ram_map, slots
from nestvmm.x86.rights import Rights
from nestvmm.x86.spans import Span, minus

__all__ = ["Bytes", "LevelMaps", "LevelMemory"]


class LevelMaps:
    """The composed maps of levels, `lowest` first: `maps[x - lowest]` is hypervisor x's, from level x+1's addresses
    to level x's. Level n is the highest of them here.

    ram:     L0's, in bytes; None: what is below is an image, which gives level `lowest` its memory
    holes:   (level, first, last), the physical addresses of level+1 that the hypervisor at `level` claims as a device's
    faults:  likewise, where it claims accesses that its map does not give
    passed:  level `lowest`'s addresses where claims of devices make no holes
    """

    def __init__(
        self,
        ram: int | None,
        maps: Sequence[MemoryMap],
        holes: Iterable[tuple[int, int, int]] = (),
        faults: Iterable[tuple[int, int, int]] = (),
        *,
        lowest: int = 1,
        passed: Sequence[Span] = (),
    ) -> None:
        self.lowest = lowest
        self._passed = passed
        self.height = lowest + len(maps)
        self._bottom = MemoryMap.identity() if ram is None else ram_map(ram)
        own = range(lowest, self.height)
        self._claimed = [hole for hole in holes if hole[0] in own]
        self._faults = [fault for fault in faults if fault[0] in own]
        self._compose(list(maps))

    def _compose(self, maps: list[MemoryMap]) -> None:
        """Raises UsageError, and changes nothing, if that takes too many regions."""
        backing = list(maps)
        self._devices = [hole for one in self._claimed for hole in self._kept(maps, *one)]
        for level, first, last in self._devices:
            backing[level - self.lowest] = backing[level - self.lowest].without(first, last)
        to_host = [self._bottom]
        for one in backing:
            to_host.append(compose(one, to_host[-1]))
        # _down[y]: level n's addresses to level y's, by the routing maps
        self._down = [compose_all(maps[number:]) for number in range(len(maps) + 1)]
        self._to_host = to_host
        self._maps = maps

    def _kept(self, maps: Sequence[MemoryMap], level: int, first: int, last: int) -> list[tuple[int, int, int]]:
        """What is left of a hole without the addresses that are passed."""
        down = compose_all(maps[: level + 1 - self.lowest])
        away = [span for one in self._passed for span in down.preimage(*one)]
        return [(level, *span) for span in minus([(first, last)], away)]

    def map_of(self, level: int) -> MemoryMap:
        """The map of the hypervisor at `level`, from `lowest` on."""
        return self._maps[level - self.lowest]

    def change(self, level: int, new: MemoryMap) -> None:
        """Gives the hypervisor at `level` a new map. Raises UsageError, and changes nothing, for too many regions."""
        at = level - self.lowest
        self._compose([*self._maps[:at], new, *self._maps[at + 1 :]])

    def gives(self, level: int, address: int, right: Rights) -> bool:
        """Whether the hypervisor at `level` itself allows an access to level+1's address."""
        found = self.map_of(level).translate(address)
        return found is not None and right in found[1]

    def reported(self) -> list[Span]:
        """Level n's addresses where a level withholds a right and claims the faults, but no device's accesses."""
        withheld = [
            top
            for level, first, last in self._faults
            for span in self.map_of(level).withheld(first - first % PAGE_SIZE, last | PAGE_SIZE - 1)
            for top in self.at_top(level + 1, *span)
        ]
        return minus(withheld, self.devices())

    def devices(self) -> list[Span]:
        """Level n's pages with addresses that a level claims as a device's."""
        return [
            top
            for level, first, last in self._devices
            for top in self.at_top(level + 1, first - first % PAGE_SIZE, last | PAGE_SIZE - 1)
        ]

    def to_host(self, level: int) -> MemoryMap:
        """Level `level`'s physical addresses to offsets in L0's memory, or to the addresses that the image gives."""
        return self._to_host[level - self.lowest]

    def slots(self) -> tuple[Slot, ...]:
        """Level n's memory slots."""
        return slots(self._to_host[-1])

    def is_all(self) -> bool:
        """Whether level n has all that level `lowest` has, at its addresses."""
        return self._to_host[-1] == self._bottom

    def carry(self, address: int, level: int) -> int | None:
        """A physical address of level n as level `level` sees it; None: a level between maps it nowhere."""
        found = self._down[level - self.lowest].translate(address)
        return None if found is None else found[0]

    def at_top(self, level: int, first: int, last: int) -> list[tuple[int, int]]:
        """The ranges of level n's physical addresses that lead to level `level`'s first to last."""
        down = self._down[level - self.lowest]
        if down == MemoryMap.identity():
            return [(first, last)]
        return down.preimage(first, min(last, ADDRESS_END - 1))


class Bytes(Protocol):
    """Bytes by their offsets, such as nestvmm.kvm.HostMemory."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes."""
        ...

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Writes them."""
        ...


class LevelMemory:
    """Level `level`'s physical memory, as the hypervisor below it may read and write it."""

    def __init__(self, level: int, to_host: MemoryMap, host: Bytes) -> None:
        self.level = level
        self.to_host = to_host
        self._host = host

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at a physical address; raises GuestAccessError where memory is missing or unreadable."""
        return b"".join(self._host.read(offset, length) for offset, length in self._pieces(address, size, Rights.READ))

    def write(self, address: int, data: bytes | memoryview, *, rights: Rights = Rights.WRITE) -> None:
        """Writes at a physical address; raises GuestAccessError, before the first byte, where that is not possible."""
        view = memoryview(data)
        for offset, length in list(self._pieces(address, len(view), rights)):
            self._host.write(offset, view[:length])
            view = view[length:]

    def _pieces(self, address: int, size: int, rights: Rights) -> list[tuple[int, int]]:
        if address < 0 or size < 0:
            raise GuestAccessError(f"L{self.level} physical memory {address:#x}+{size:#x}: negative")
        pieces = []
        while size > 0:
            region = next(iter(self.to_host.overlapping(address, address)), None)
            if region is None or rights not in region.rights:
                problem = "is not backed by memory" if region is None else "does not give that right"
                raise GuestAccessError(f"L{self.level} physical address {address:#x} {problem}")
            length = min(size, region.last + 1 - address)
            pieces.append((address - region.base + region.at, length))
            address += length
            size -= length
        return pieces
