"""Images that expect no PC around them: ELF64 executables, and raw binaries at an address."""

from __future__ import annotations

from collections.abc import Sequence

from nestvmm.errors import ImageError
from nestvmm.loaders.elf import read_elf
from nestvmm.loaders.image import Image, MemoryRange
from nestvmm.loaders.long_mode import long_mode_entry
from nestvmm.loaders.room import Room

__all__ = ["load_elf64", "load_raw"]


def load_elf64(data: bytes, memory: Sequence[MemoryRange], command: bytes) -> Image:
    """Load a 64-bit ELF executable at its segments' physical addresses; the start is as `load` describes it."""
    room = Room(memory)
    executable = read_elf(data)
    executable.put(room)
    return _image("ELF64", room, executable.entry, command)


def load_raw(data: bytes, memory: Sequence[MemoryRange], command: bytes, address: int) -> Image:
    """Load all of `data` at `address` and start at its first byte; the start is as `load` describes it."""
    if address < 0:
        raise ImageError(f"a raw binary cannot lie at {address:#x}")
    room = Room(memory)
    room.put(address, data, "the raw binary")
    return _image("raw binary", room, address, command)


def _image(kind: str, room: Room, rip: int, command: bytes) -> Image:
    entry = long_mode_entry(room, rip, rdi=room.place(command, "the command line"), rsi=room.size)
    return Image(kind, "bare", room.segments, entry)
