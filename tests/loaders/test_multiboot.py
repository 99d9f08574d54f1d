import struct

import pytest
from image_writers import Elf, MultibootHeader, Segment

from nestvmm.errors import ImageError
from nestvmm.loaders.image import MemoryRange
from nestvmm.loaders.multiboot import Module, find_header, load_multiboot
from nestvmm.x86.state import PROTECTED_MODE_GDT, Entry

MIB = 1 << 20
RAM = [MemoryRange(0, 16 * MIB)]


def elf32(header: MultibootHeader | None = None, **fields) -> bytes:
    code = (header or MultibootHeader()).write() + b"\xf4" * 32
    return Elf(bits=32, entry=0x100020, segments=[Segment(code, 0x100000, memory_size=0x2000)], **fields).write()


def load(data: bytes, modules=(), command=b"kernel arguments\0"):
    header = find_header(data)
    assert header is not None
    return load_multiboot(data, header, RAM, command, modules)


def text(memory: bytes, at: int) -> bytes:
    return memory[at : memory.index(b"\0", at)]


def memory_of(image) -> bytes:
    memory = bytearray(16 * MIB)
    for address, data in image.segments:
        memory[address : address + len(data)] = data
    return bytes(memory)


def test_elf32_with_modules():
    image = load(elf32(), [Module(b"first a b\0", b"1" * 5000), Module(b"second\0", b"2")])
    assert (image.format, image.machine) == ("Multiboot", "pc")
    assert [(address, len(data)) for address, data in image.segments] == [
        (0x1000, 88 + 32 + 5 * 24 + 17 + 8 + 10 + 7),
        (0x1120, 32),
        (0x100000, 64),
        (0x102000, 5000),
        (0x104000, 1),
    ]
    assert image.entry == Entry(
        "protected", rip=0x100020, rsp=0x2140, rax=0x2BADB002, rbx=0x1000, gdt_base=0x1120, gdt_limit=31
    )
    memory = memory_of(image)
    assert memory[0x1120:0x1140] == PROTECTED_MODE_GDT
    info = struct.unpack_from("<22I", memory, 0x1000)
    flags, lower, upper, device, command, count, modules = info[:7]
    assert (flags, lower, upper, device, count) == (0x24F, 639, 15 * 1024, 0x8000FFFF, 2)
    assert text(memory, command) == b"kernel arguments"
    assert text(memory, info[16]) == b"nestvmm"
    assert info[7:11] + info[13:16] + info[17:] == (0,) * 12

    first, second = struct.unpack_from("<4I", memory, modules), struct.unpack_from("<4I", memory, modules + 16)
    assert (first[:2], second[:2]) == ((0x102000, 0x102000 + 5000), (0x104000, 0x104001))
    assert (text(memory, first[2]), text(memory, second[2])) == (b"first a b", b"second")
    assert memory[slice(*first[:2])] == b"1" * 5000

    regions = [struct.unpack_from("<IQQI", memory, at) for at in range(info[12], info[12] + info[11], 24)]
    assert regions == [
        (20, 0, 0x9FC00, 1),
        (20, 0x9FC00, 0x400, 2),
        (20, 0xF0000, 0x10000, 2),
        (20, 0x100000, 15 * MIB, 1),
        (20, 0xFFFBC000, 0x44000, 2),
    ]


def flat(addresses, size=256, at=16, flags=0) -> bytes:
    data = bytearray(index % 251 for index in range(size))
    data[at : at + 32] = MultibootHeader(flags, addresses).write()
    return bytes(data)


def test_address_fields_say_what_is_loaded():
    data = flat((0x200008, 0x200000, 0x200040, 0x203000, 0x200030))
    image = load(data, [Module(b"m\0", b"module")])
    assert image.segments[-2:] == [(0x200000, data[8:72]), (0x203000, b"module")]
    assert image.entry.rip == 0x200030


def test_without_an_end_all_of_the_file_is_loaded():
    data = flat((0x200010, 0x200000, 0, 0, 0x2000FF))
    image = load(data, [Module(b"m\0", b"module")])
    assert image.segments[-2:] == [(0x200000, data), (0x201000, b"module")]


def test_address_fields_win_over_an_elf_header():
    data = bytearray(Elf(bits=64).write())
    at = len(data)
    data += MultibootHeader(0, (0x300000 + at, 0x300000, 0, 0, 0x300000 + at)).write()
    image = load(bytes(data))
    assert image.segments[-1] == (0x300000, data)
    assert image.entry.mode == "protected"


@pytest.mark.parametrize("at", [0, 4, 8192 - 32])
def test_the_header_is_found_in_the_first_8_kib(at):
    header = find_header(flat((1, 2, 3, 4, 5), size=9000, at=at))
    assert header == (at, 0x10000, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        flat((1, 2, 3, 4, 5), size=9000, at=8192 - 28),
        flat((1, 2, 3, 4, 5), at=18),
        flat((1, 2, 3, 4, 5), size=48)[:47],
        bytes(16) + MultibootHeader(3, checksum=1).write(),
        MultibootHeader().write()[:11],
    ],
)
def test_what_is_no_header(data):
    assert find_header(data) is None


def test_a_false_header_before_the_true_one_is_passed_over():
    assert find_header(MultibootHeader(checksum=7).write() + MultibootHeader(3).write()) == (32, 3, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (elf32(MultibootHeader(flags=8)), "demands features that are not offered, flags 0x8"),
        (elf32(machine=62), "a 32-bit file for EM_X86_64, not for EM_386"),
        (MultibootHeader().write(), "no load addresses, and the file is no 32-bit ELF"),
        (
            Elf(segments=[Segment(MultibootHeader().write(), 0x100000)]).write(),
            "no load addresses, and the file is no 32-bit",
        ),
        (flat((0x200000, 0x200008, 0, 0, 0x200008)), "cannot come to lie at 0x200000 when the load starts at 0x200008"),
        (flat((0x200011, 0x200000, 0, 0, 0x200000)), "at 0x10 in the file it cannot come to lie at 0x200011"),
        (flat((0x200010, 0x200000, 0x200101, 0, 0x200000)), "but the file has 0x100 bytes; truncated"),
        (flat((0x200010, 0x200000, 0x1FFFFF, 0, 0x200000)), r"load 0x200000\.\.0x1fffff"),
        (flat((0x200010, 0x200000, 0x200080, 0x20007F, 0x200000)), "bss ends at 0x20007f"),
        (flat((0x200010, 0x200000, 0x200080, 0, 0x200080)), "the entry point 0x200080 lies outside"),
        (
            flat((0x200010, 0x200000, 0x200080, 0xFFFFFFFF, 0x200000)),
            "kernel at 0x200000..0xfffffffe .* not inside RAM",
        ),
        (flat((0xFFFFFF10, 0xFFFFFF00, 0, 0, 0xFFFFFF00)), "is not inside RAM"),
    ],
)
def test_malformed_multiboot(data, message):
    with pytest.raises(ImageError, match=message):
        load(data)


def test_modules_that_do_not_fit():
    with pytest.raises(ImageError, match="no room for module 1: 9 MiB needed between 0x102000 and"):
        load(elf32(), [Module(b"a\0", bytes(8 * MIB)), Module(b"b\0", bytes(9 * MIB))])
