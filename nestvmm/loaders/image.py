"""What a loader hands over: bytes at addresses, and the state in which the guest starts on them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from nestvmm.x86.state import Entry

__all__ = ["Data", "Image", "Machine", "MemoryRange"]

Data = bytes | memoryview
Machine = Literal["pc", "bare"]


class MemoryRange(NamedTuple):
    """A piece of the RAM of the level that the image is for: guest-physical start and size in bytes."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + self.size


class Image(NamedTuple):
    """A guest ready to start.

    format:     "ELF64", "Multiboot", "bzImage" or "raw binary"
    machine:    "pc" where the image expects QEMU's PC, else "bare"
    segments:   (guest-physical address, bytes), disjoint and inside RAM, in order of address; all other RAM is zero
    entry:      the first state of its virtual CPU
    """

    format: str
    machine: Machine
    segments: list[tuple[int, Data]]
    entry: Entry
