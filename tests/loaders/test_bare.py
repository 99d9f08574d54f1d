import struct

import pytest
from image_writers import Elf, Segment

from nestvmm.errors import ImageError
from nestvmm.loaders.bare import load_elf64, load_raw
from nestvmm.loaders.image import MemoryRange
from nestvmm.loaders.long_mode import identity_map
from nestvmm.x86.state import LONG_MODE_GDT, Entry

MIB = 1 << 20
RAM = [MemoryRange(0, 16 * MIB)]


def test_elf64_segments_and_entry():
    code, constants = bytes(range(100)), b"constant"
    elf = Elf(entry=0x200010, segments=[Segment(constants, 0x300000), Segment(code, 0x200000)])
    image = load_elf64(elf.write(), RAM, b"say=hi\0")
    assert (image.format, image.machine) == ("ELF64", "bare")
    assert image.segments == [
        (0x1000, b"say=hi\0"),
        (0x1010, LONG_MODE_GDT),
        (0x2000, identity_map(0x2000)),
        (0x200000, code),
        (0x300000, constants),
    ]
    assert image.entry == Entry(
        "long",
        rip=0x200010,
        rsp=0x1030 + 0x4000 + 0x6FD0,
        rsi=16 * MIB,
        rdi=0x1000,
        cr3=0x2000,
        gdt_base=0x1010,
        gdt_limit=31,
    )


def walk(tables: bytes, base: int, address: int) -> int:
    """Translate as the hardware does; both levels' flags must be present and writable, the page 2 MiB."""
    table = base
    for shift in (39, 30, 21):
        (entry,) = struct.unpack_from("<Q", tables, table - base + (address >> shift & 511) * 8)
        assert entry & 0b11 == 0b11
        table = entry & 0x000F_FFFF_FFFF_F000
    assert entry & 0x80
    return table | address & 0x1FFFFF


@pytest.mark.parametrize("base", [0x2000, 0x12345000])
def test_the_page_tables_map_4_gib_to_themselves(base):
    tables = identity_map(base)
    assert len(tables) == 6 * 4096
    for address in (0, 0x1FFFFF, 0x200000, 0x3FFFFFFF, 0x40000000, 0x89ABCDEF, 0xFEE00000, 0xFFFFFFFF):
        assert walk(tables, base, address) == address
    assert struct.unpack_from("<512Q", tables)[1:] == (0,) * 511
    assert struct.unpack_from("<512Q", tables, 4096)[4:] == (0,) * 508


def test_bss_is_kept_free_and_needs_no_bytes():
    elf = Elf(
        entry=0x1000,
        segments=[Segment(b"\x90" * 16, 0x1000, memory_size=0x9000), Segment(b"", 0xA000, memory_size=4096)],
    )
    image = load_elf64(elf.write(), RAM, b"\0")
    assert image.segments[0] == (0x1000, b"\x90" * 16)
    assert image.segments[1] == (0xB000, b"\0")


def test_segments_are_placed_by_physical_address():
    high = 0xFFFFFFFF80000000
    elf = Elf(entry=high + 0x100004, segments=[Segment(b"\x90" * 16, 0x100000, virtual=high + 0x100000)])
    assert load_elf64(elf.write(), RAM, b"\0").entry.rip == 0x100004
    elf.entry = 0x100008
    assert load_elf64(elf.write(), RAM, b"\0").entry.rip == 0x100008


def test_other_program_headers_are_passed_over():
    ignored = [Segment(b"note", 1 << 63, type=kind) for kind in (0, 2, 4, 7, 0x6474E551, 0x6474E553)]
    image = load_elf64(Elf(segments=[*ignored, Segment(b"\xf4", 0x100000)]).write(), RAM, b"\0")
    assert [address for address, _ in image.segments] == [0x1000, 0x1010, 0x2000, 0x100000]


@pytest.mark.parametrize(
    ("elf", "message"),
    [
        (Elf(type=3), "position-independent: link it with -static -no-pie"),
        (Elf(type=1), "an object file: link it"),
        (Elf(type=4), "a core dump"),
        (Elf(type=0xFFFF), "not an executable"),
        (Elf(machine=183), "for EM_AARCH64, not for EM_X86_64"),
        (Elf(machine=0xABCD), "for 43981, not for EM_X86_64"),
        (Elf(data_encoding=2), "not little-endian"),
        (Elf(program_header_size=32), "program headers of 32 bytes instead of 56"),
        (Elf(program_header_count=0), "0 program headers"),
        (Elf(program_header_count=0xFFFF), "65535 program headers; 1 to 256"),
        (Elf(program_header_count=200), "program headers: bytes 0x40..0x2bff lie behind the file's end"),
        (Elf(program_headers_at=(1 << 64) - 8), "program headers: bytes 0xfffffffffffffff8"),
        (Elf(entry=0x100010), "the entry point 0x100010 lies in no segment"),
        (Elf(segments=[Segment(b"x", 0, type=3), Segment(b"x", 0x100000)]), "dynamically linked"),
        (Elf(segments=[Segment(b"x", 0x100000, offset=1 << 63)]), "segment 0: bytes 0x8000000000000000"),
        (Elf(segments=[Segment(b"x", 0x100000, file_size=4096)]), r"segment 0: bytes 0x80\.\.0x107f lie behind"),
        (Elf(segments=[Segment(b"x", 0x100000, file_size=(1 << 64) - 1)]), "segment 0: bytes 0x80"),
        (
            Elf(segments=[Segment(b"xx", 0x100000, memory_size=1)]),
            "segment 0: 0x2 bytes in the file, but 0x1 in memory",
        ),
        (Elf(segments=[Segment(b"x", 0x100000, memory_size=(1 << 64) - 1)]), "is not inside RAM, 16 MiB"),
        (Elf(entry=1 << 40, segments=[Segment(b"x", 1 << 40)]), "is not inside RAM"),
        (Elf(entry=16 * MIB - 1, segments=[Segment(b"xx", 16 * MIB - 1)]), "is not inside RAM"),
        (
            Elf(segments=[Segment(b"x" * 16, 0x100000, memory_size=32), Segment(b"y", 0x10001F)]),
            r"segment 1 at 0x10001f\.\.0x10001f overlaps ELF segment 0 at 0x100000\.\.0x10001f",
        ),
        (
            Elf(entry=0, segments=[Segment(b"x", 0, memory_size=16 * MIB - 4096)]),
            "no room for page tables: 24 KiB needed below 4 GiB",
        ),
    ],
)
def test_malformed_elf64(elf, message):
    with pytest.raises(ImageError, match=message):
        load_elf64(elf.write(), RAM, b"\0")


def test_code_above_4_gib_is_refused():
    ram = [*RAM, MemoryRange(1 << 32, MIB)]
    with pytest.raises(ImageError, match="the entry point 0x100000000 lies above the first 4 GiB"):
        load_elf64(Elf(entry=1 << 32, segments=[Segment(b"\xf4", 1 << 32)]).write(), ram, b"\0")
    data_above = Elf(segments=[Segment(b"\xf4", 0x100000), Segment(b"data", 1 << 32)])
    assert load_elf64(data_above.write(), ram, b"\0").segments[-1] == (1 << 32, b"data")


def test_raw_binary():
    image = load_raw(b"\x90\xf4", RAM, b"\0", 0x7C00)
    assert (image.format, image.machine) == ("raw binary", "bare")
    assert image.segments == [
        (0x1000, b"\0"),
        (0x1010, LONG_MODE_GDT),
        (0x7C00, b"\x90\xf4"),
        (0x8000, identity_map(0x8000)),
    ]
    assert image.entry.rip == 0x7C00
    assert image.entry.rsi == 16 * MIB


@pytest.mark.parametrize("address", [-1, 16 * MIB - 1, 16 * MIB, 1 << 32, 1 << 64])
def test_raw_binary_outside_ram(address):
    with pytest.raises(ImageError, match=r"raw binary (cannot lie at|at .* is not inside RAM)"):
        load_raw(b"\x90\xf4", RAM, b"\0", address)
