"""Multiboot 1, as GRUB and QEMU's -kernel start it: 32-bit protected mode, with an information structure in EBX.

Multiboot Specification 0.6.96: header in 3.1, state in 3.2, information in 3.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from nestvmm.errors import ImageError
from nestvmm.loaders.elf import elf_class, read_elf
from nestvmm.loaders.image import Data, Image, MemoryRange
from nestvmm.loaders.pc_memory import HIDDEN, lower_and_upper, memory_map
from nestvmm.loaders.room import PAGE, Room
from nestvmm.x86.state import PROTECTED_MODE_GDT, Entry

__all__ = ["LOADER_MAGIC", "Header", "Module", "find_header", "load_multiboot"]

LOADER_MAGIC: Final = 0x2BADB002

_HEADER_MAGIC: Final = 0x1BADB002
_SEARCHED: Final = 8192
# Bits 0 to 15 are demands: 0 (modules on pages) and 1 (memory map) are always met; 2 (video mode) is not, as in QEMU.
_DEMANDS_KNOWN: Final = 0b111
_HAS_ADDRESSES: Final = 1 << 16

# Memory sizes, boot device, command line, modules, memory map, loader name.
_INFO_FLAGS: Final = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
_INFO: Final = struct.Struct("<7I16x2I12xI20x")
_FIRST_DISK: Final = 0x8000FFFF
_MODULE: Final = struct.Struct("<4I")
_REGION: Final = struct.Struct("<IQQI")
_NAME: Final = b"nestvmm\0"
# The kernel is to set up its own stack; those that forget find one here, as they do after a BIOS.
_STACK_SIZE: Final = 0x1000


class Module(NamedTuple):
    """A file for the kernel, and its command line with a NUL behind it."""

    command: bytes
    data: Data


class Header(NamedTuple):
    """A Multiboot header: its offset in the file, and its address fields if it has them (bit 16 of the flags)."""

    offset: int
    flags: int
    header_address: int = 0
    load_address: int = 0
    load_end: int = 0
    bss_end: int = 0
    entry: int = 0

    @property
    def has_addresses(self) -> bool:
        """Whether the address fields, and not an ELF header, say what to load."""
        return bool(self.flags & _HAS_ADDRESSES)


def find_header(data: bytes) -> Header | None:
    """The first valid header in the first 8 KiB, on a multiple of 4; a header cut off by the file's end is none."""
    magic = _HEADER_MAGIC.to_bytes(4, "little")
    end = min(len(data), _SEARCHED)
    offset = data.find(magic, 0, end)
    while offset >= 0:
        if offset % 4 == 0 and offset + 12 <= end:
            flags, checksum = struct.unpack_from("<2I", data, offset + 4)
            if (_HEADER_MAGIC + flags + checksum) % (1 << 32) == 0:
                if not flags & _HAS_ADDRESSES:
                    return Header(offset, flags)
                if offset + 32 <= end:
                    return Header(offset, flags, *struct.unpack_from("<5I", data, offset + 12))
        offset = data.find(magic, offset + 1, end)
    return None


def load_multiboot(
    data: bytes, header: Header, memory: Sequence[MemoryRange], command: bytes, modules: Sequence[Module] = ()
) -> Image:
    """Load `data`, a 32-bit ELF executable or whatever the address fields of its `header` describe.

    command:    the kernel's command line with a NUL behind it
    modules:    go behind the kernel, each on a page of its own

    The entry has EAX = LOADER_MAGIC, EBX = the information, flat segments, paging off; its small stack is ours.
    """
    if unknown := header.flags & 0xFFFF & ~_DEMANDS_KNOWN:
        raise ImageError(f"Multiboot header: demands features that are not offered, flags {unknown:#x}")
    room = Room(memory, avoid=[HIDDEN])
    entry, end = _put_by_addresses(data, header, room) if header.has_addresses else _put_elf(data, room)
    info = _place_information(room, end, command, modules)
    gdt = room.place(PROTECTED_MODE_GDT, "the GDT")
    stack = room.claim(_STACK_SIZE, "the stack")
    state = Entry(
        "protected",
        rip=entry,
        rsp=stack + _STACK_SIZE,
        rax=LOADER_MAGIC,
        rbx=info,
        gdt_base=gdt,
        gdt_limit=len(PROTECTED_MODE_GDT) - 1,
    )
    return Image("Multiboot", "pc", room.segments, state)


def _put_elf(data: bytes, room: Room) -> tuple[int, int]:
    """Put the kernel's segments; return its entry point and end."""
    if elf_class(data) != 32:
        raise ImageError("Multiboot header: has no load addresses, and the file is no 32-bit ELF executable")
    executable = read_elf(data)
    executable.put(room)
    return executable.entry, executable.end


def _put_by_addresses(data: bytes, header: Header, room: Room) -> tuple[int, int]:
    """The same for a kernel that is loaded by the address fields, the "a.out kludge"."""
    start = header.load_address
    offset = header.offset - (header.header_address - start)
    if header.header_address < start or offset < 0:
        raise ImageError(
            f"Multiboot header: at {header.offset:#x} in the file it cannot come to lie at {header.header_address:#x} "
            f"when the load starts at {start:#x}"
        )
    size = header.load_end - start if header.load_end else len(data) - offset
    if size <= 0 or size > len(data) - offset:
        raise ImageError(
            f"Multiboot header: load {start:#x}..{header.load_end:#x} from file offset {offset:#x}, "
            f"but the file has {len(data):#x} bytes; truncated?"
        )
    end = header.bss_end or start + size
    if end < start + size:
        raise ImageError(f"Multiboot header: the bss ends at {end:#x}, before the loaded part at {start + size:#x}")
    if not start <= header.entry < start + size:
        raise ImageError(f"Multiboot header: the entry point {header.entry:#x} lies outside what is loaded")
    room.put(start, memoryview(data)[offset : offset + size], "Multiboot kernel", end - start)
    return header.entry, end


def _place_information(room: Room, kernel_end: int, command: bytes, modules: Sequence[Module]) -> int:
    """Place the modules and the information structure with all that it points to; return its address."""
    regions = memory_map(room.ram)
    memory = b"".join(_REGION.pack(_REGION.size - 4, *region) for region in regions)
    texts = b"".join([command, _NAME, *(module.command for module in modules)])
    modules_at = _INFO.size
    memory_at = modules_at + _MODULE.size * len(modules)
    command_at = memory_at + len(memory)
    name_at = command_at + len(command)

    info = room.claim(command_at + len(texts), "the Multiboot information")
    text = info + name_at + len(_NAME)
    table = []
    for number, module in enumerate(modules):
        start = room.place(module.data, f"module {number}", align=PAGE, low=kernel_end)
        table.append(_MODULE.pack(start, start + len(module.data), text, 0))
        text += len(module.command)
    head = _INFO.pack(
        _INFO_FLAGS,
        *lower_and_upper(regions),
        _FIRST_DISK,
        info + command_at,
        len(modules),
        info + modules_at,
        len(memory),
        info + memory_at,
        info + name_at,
    )
    room.write(info, b"".join([head, *table, memory, texts]))
    return info
