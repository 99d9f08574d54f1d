"""Writers of small guest images: each makes the bytes of one file, with every field open to a test."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

PT_LOAD = 1


@dataclass
class Segment:
    """A program header and its bytes in the file."""

    data: bytes
    physical: int
    virtual: int | None = None
    memory_size: int | None = None
    type: int = PT_LOAD
    file_size: int | None = None
    offset: int | None = None


@dataclass
class Elf:
    """An ELF executable: header, program headers, then each segment's bytes, on multiples of 16."""

    bits: int = 64
    entry: int = 0x100000
    segments: list[Segment] = field(default_factory=lambda: [Segment(b"\xf4" * 16, 0x100000)])
    machine: int | None = None
    type: int = 2
    data_encoding: int = 1
    program_header_size: int | None = None
    program_header_count: int | None = None
    program_headers_at: int | None = None

    def write(self) -> bytes:
        wide = self.bits == 64
        header_size, entry_size = (64, 56) if wide else (52, 32)
        at = header_size + entry_size * len(self.segments)
        headers, body = b"", b""
        for segment in self.segments:
            body += bytes(-(at + len(body)) % 16)
            offset = at + len(body) if segment.offset is None else segment.offset
            file_size = len(segment.data) if segment.file_size is None else segment.file_size
            memory_size = file_size if segment.memory_size is None else segment.memory_size
            virtual = segment.physical if segment.virtual is None else segment.virtual
            if wide:
                headers += struct.pack(
                    "<2I6Q", segment.type, 5, offset, virtual, segment.physical, file_size, memory_size, 0x1000
                )
            else:
                headers += struct.pack(
                    "<8I", segment.type, offset, virtual, segment.physical, file_size, memory_size, 5, 0x1000
                )
            body += segment.data
        identification = bytes((0x7F, *b"ELF", 2 if wide else 1, self.data_encoding, 1)).ljust(16, b"\0")
        header = identification + struct.pack(
            "<2HI3QI6H" if wide else "<2HI3II6H",
            self.type,
            (62 if wide else 3) if self.machine is None else self.machine,
            1,
            self.entry,
            header_size if self.program_headers_at is None else self.program_headers_at,
            0,
            0,
            header_size,
            entry_size if self.program_header_size is None else self.program_header_size,
            len(self.segments) if self.program_header_count is None else self.program_header_count,
            0,
            0,
            0,
        )
        return header + headers + body


@dataclass
class MultibootHeader:
    """A Multiboot 1 header; with address fields when `addresses` holds header, load, load end, bss end and entry."""

    flags: int = 3
    addresses: tuple[int, int, int, int, int] | None = None
    checksum: int | None = None

    def write(self) -> bytes:
        flags = self.flags | (0 if self.addresses is None else 1 << 16)
        checksum = -(0x1BADB002 + flags) & 0xFFFFFFFF if self.checksum is None else self.checksum
        return struct.pack("<3I", 0x1BADB002, flags, checksum) + struct.pack("<5I", *(self.addresses or (0,) * 5))


@dataclass
class BzImage:
    """A bzImage: boot sector and setup sectors with the setup header, then the kernel."""

    kernel: bytes = bytes(0x200) + b"\xf4" * 0x1E00
    setup_sectors: int = 1
    syssize: int | None = None
    header_length: int = 0x6A
    magic: bytes = b"HdrS"
    version: int = 0x20F
    loadflags: int = 0x81
    initrd_max: int = 0x7FFFFFFF
    alignment: int = 0x200000
    relocatable: int = 1
    xloadflags: int = 0x7F
    command_max: int = 0x7FF
    preferred: int = 0x1000000
    init_size: int = 0x100000

    def write(self) -> bytes:
        setup = bytearray(((self.setup_sectors or 4) + 1) * 512)
        setup[0x1EF] = 0xFF
        setup[0x1F1] = self.setup_sectors
        struct.pack_into("<I", setup, 0x1F4, len(self.kernel) // 16 if self.syssize is None else self.syssize)
        setup[0x1FE:0x200] = b"\x55\xaa"
        setup[0x200:0x202] = bytes((0xEB, self.header_length))
        setup[0x202:0x206] = self.magic
        struct.pack_into("<H", setup, 0x206, self.version)
        setup[0x211] = self.loadflags
        struct.pack_into("<I", setup, 0x214, 0x100000)
        struct.pack_into(
            "<IIBBHI",
            setup,
            0x22C,
            self.initrd_max,
            self.alignment,
            self.relocatable,
            21,
            self.xloadflags,
            self.command_max,
        )
        struct.pack_into("<QI", setup, 0x258, self.preferred, self.init_size)
        return bytes(setup) + self.kernel
