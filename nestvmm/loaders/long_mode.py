"""A 64-bit start for images that bring no mode switch of their own: page tables, GDT and stack, placed in free RAM."""

from __future__ import annotations

import struct
from typing import Final

from nestvmm.errors import ImageError
from nestvmm.loaders.room import PAGE, Room
from nestvmm.x86.state import LONG_MODE_GDT, Entry

__all__ = ["STACK_SIZE", "identity_map", "long_mode_entry"]

STACK_SIZE: Final = 0x4000

_MAPPED: Final = 1 << 32
_TABLE: Final = 0b11  # present, writable
_LARGE_PAGE: Final = 0b1000_0011  # the same, 2 MiB
_DIRECTORIES: Final = 4


def identity_map(base: int) -> bytes:
    """Page tables to lie at `base`, the PML4 first, that map the first 4 GiB to themselves in 2 MiB pages.

    AMD APM vol. 2, 5.3: a PML4, a page-directory-pointer table and four page directories: 24 KiB. Supervisor only.
    """
    pml4 = struct.pack("<Q", base + PAGE | _TABLE).ljust(PAGE, b"\0")
    directories = [base + (2 + number) * PAGE | _TABLE for number in range(_DIRECTORIES)]
    pointers = struct.pack(f"<{_DIRECTORIES}Q", *directories).ljust(PAGE, b"\0")
    pages = range(_LARGE_PAGE, _MAPPED, 2 << 20)
    return pml4 + pointers + struct.pack(f"<{len(pages)}Q", *pages)


def long_mode_entry(room: Room, rip: int, *, rsi: int, rdi: int = 0) -> Entry:
    """Place what a start in long mode at `rip` needs: page tables, GDT, and a stack of STACK_SIZE bytes, on 16."""
    if rip >= _MAPPED:
        raise ImageError(f"the entry point {rip:#x} lies above the first 4 GiB, which is what the loader maps")
    tables = room.claim((2 + _DIRECTORIES) * PAGE, "page tables", align=PAGE)
    room.write(tables, identity_map(tables))
    gdt = room.place(LONG_MODE_GDT, "the GDT")
    stack = room.claim(STACK_SIZE, "the stack")
    return Entry(
        "long",
        rip=rip,
        rsp=stack + STACK_SIZE,
        rsi=rsi,
        rdi=rdi,
        cr3=tables,
        gdt_base=gdt,
        gdt_limit=len(LONG_MODE_GDT) - 1,
    )
