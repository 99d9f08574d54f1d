"""Where things lie in guest RAM while an image is put together: every byte has one owner or none."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from nestvmm.errors import ImageError
from nestvmm.loaders.image import Data, MemoryRange

__all__ = ["PAGE", "Room", "align_up", "in_bytes"]

PAGE: Final = 0x1000
_BELOW_4G: Final = 1 << 32


def align_up(value: int, alignment: int) -> int:
    """The next multiple of `alignment`, a power of two."""
    return (value + alignment - 1) & -alignment


def in_bytes(size: int) -> str:
    """A size for a message: exact in the largest unit that divides it, else rounded up to KiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes" if size < 1 << 14 else f"{-(-size // 1024)} KiB"


class _Owner(NamedTuple):
    start: int
    end: int
    what: str


class Room:
    """Guest RAM and what has been put there so far.

    A thing with a fixed address goes in by `put`, all others by `place` (without bytes: `hold` and `claim`). A free
    place is never in page 0 or in `avoid`. ImageError when something does not fit.
    """

    def __init__(self, memory: Sequence[MemoryRange], avoid: Sequence[MemoryRange] = ()) -> None:
        self.ram = list(_merged(memory))
        if not self.ram:
            raise ImageError("the guest has no RAM: give it some with -m")
        self._avoid = [MemoryRange(0, PAGE), *avoid]
        self._owners: list[_Owner] = []
        self._segments: list[tuple[int, Data]] = []

    @property
    def size(self) -> int:
        """Bytes of RAM, over all ranges."""
        return sum(ram.size for ram in self.ram)

    @property
    def segments(self) -> list[tuple[int, Data]]:
        """All that was written, in order of address."""
        return sorted(self._segments, key=lambda segment: segment[0])

    def hold(self, start: int, size: int, what: str) -> None:
        """Own [start, start + size) without writing there."""
        if size == 0:
            return
        end = start + size
        if not any(ram.start <= start and end <= ram.end for ram in self.ram):
            raise ImageError(
                f"{what} at {start:#x}..{end - 1:#x} ({in_bytes(size)}) is not inside RAM, {self._described()}"
            )
        for owner in self._owners:
            if start < owner.end and owner.start < end:
                raise ImageError(
                    f"{what} at {start:#x}..{end - 1:#x} overlaps {owner.what} at {owner.start:#x}..{owner.end - 1:#x}"
                )
        insort(self._owners, _Owner(start, end, what))

    def put(self, start: int, data: Data, what: str, size: int = 0) -> None:
        """Write `data` at `start` and own max(size, len(data)) bytes; what follows the data is zero."""
        self.hold(start, max(size, len(data)), what)
        self.write(start, data)

    def write(self, start: int, data: Data) -> None:
        """Write `data` into a piece that is owned already, once."""
        if len(data):
            self._segments.append((start, data))

    def place(
        self, data: Data, what: str, *, align: int = 16, low: int = 0, high: int = _BELOW_4G, top: bool = False
    ) -> int:
        """Write `data` where `claim` finds room, and return the address."""
        address = self.claim(len(data), what, align=align, low=low, high=high, top=top)
        self.write(address, data)
        return address

    def claim(
        self, size: int, what: str, *, align: int = 16, low: int = 0, high: int = _BELOW_4G, top: bool = False
    ) -> int:
        """Own `size` bytes in the first free place inside [low, high), or in the last if `top`; return its address.

        align:  a power of two
        high:   at most 4 GiB by default, which is what the loaders' page tables map
        """
        fits = []
        largest = 0
        for start, end in self._free(low, high):
            largest = max(largest, end - start)
            address = (end - size) & -align if top else align_up(start, align)
            if start <= address and address + size <= end:
                fits.append(address)
        if not fits:
            where = f" between {low:#x} and {high - 1:#x}" if low or high != _BELOW_4G else " below 4 GiB"
            raise ImageError(
                f"no room for {what}: {in_bytes(size)} needed{where}, largest free piece there {in_bytes(largest)}, "
                f"{self._described()}: give the guest more with -m"
            )
        address = fits[-1 if top else 0]
        self.hold(address, size, what)
        return address

    def _free(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        taken = sorted([(owner.start, owner.end) for owner in self._owners] + [(a.start, a.end) for a in self._avoid])
        for ram in self.ram:
            start, stop = max(ram.start, low), min(ram.end, high)
            for taken_start, taken_end in taken:
                if start < min(taken_start, stop):
                    yield start, min(taken_start, stop)
                start = max(start, taken_end)
            if start < stop:
                yield start, stop

    def _described(self) -> str:
        shown = ", ".join(f"{ram.start:#x}..{ram.end - 1:#x}" for ram in self.ram[:4])
        return f"{in_bytes(self.size)} at {shown}{', ...' if len(self.ram) > 4 else ''}"


def _merged(memory: Sequence[MemoryRange]) -> Iterator[MemoryRange]:
    """The same RAM with neighbours joined: a segment may reach from one into the next."""
    start = end = 0
    for ram in sorted(memory):
        if ram.size <= 0:
            continue
        if ram.start < 0 or ram.start < end:
            raise ImageError(f"RAM at {ram.start:#x} overlaps RAM that ends at {end - 1:#x}")
        if end > start and ram.start == end:
            end = ram.end
            continue
        if end > start:
            yield MemoryRange(start, end - start)
        start, end = ram.start, ram.end
    if end > start:
        yield MemoryRange(start, end - start)
