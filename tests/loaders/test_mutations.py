"""Whatever becomes of a file's bytes, a loader answers with an image inside RAM or with one ImageError, at once."""

import random
import struct
import time
from itertools import pairwise
from pathlib import Path

import pytest
from image_writers import BzImage, Elf, MultibootHeader, Segment

from nestvmm.errors import ImageError
from nestvmm.loaders import MemoryRange, load

MIB = 1 << 20
RAM = [MemoryRange(0, 24 * MIB), MemoryRange(32 * MIB, 16 * MIB), MemoryRange(1 << 32, 16 * MIB)]
EXTREMES = [
    0,
    1,
    0x7F,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFF000,
    0xFFFFFFFF,
    1 << 63,
    (1 << 64) - 4096,
    (1 << 64) - 1,
]

CODE = MultibootHeader().write() + b"\x90" * 200
FLAT = MultibootHeader(0, (0x200000, 0x200000, 0x200100, 0x204000, 0x200020)).write() + bytes(400)
SEGMENTS = [Segment(CODE, 0x100000), Segment(b"data" * 20, 0x200000, memory_size=0x3000), Segment(b"note", 0, type=4)]
# Each format: a file that loads, and how many of its first bytes are headers, which is where most mutations go.
FORMATS = {
    "ELF64": (Elf(segments=SEGMENTS).write(), 64 + 3 * 56),
    "Multiboot ELF32": (Elf(bits=32, segments=SEGMENTS).write(), 52 + 3 * 32 + 44),
    "Multiboot addresses": (FLAT, 32),
    "bzImage": (BzImage().write(), 0x270),
}


def mutate(data: bytes, headers: int, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(headers if chance.random() < 0.9 else len(data))
        kind = chance.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at] = chance.randrange(256)
        else:
            width, code = chance.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
            at -= at % width
            value = chance.choice(EXTREMES) if kind == 2 else chance.randrange(64 * MIB)
            changed[at : at + width] = struct.pack(f"<{code}", value & (1 << 8 * width) - 1)
    if chance.random() < 0.15:
        del changed[chance.randrange(len(changed)) :]
    return bytes(changed)


def check(image, memory) -> None:
    """Every byte lies in RAM and belongs to one segment; what the entry points to is there."""
    ends = [(start, start + len(data)) for start, data in image.segments]
    for start, end in ends:
        assert any(ram.start <= start < end <= ram.end for ram in memory)
    assert all(before[1] <= after[0] for before, after in pairwise(ends))
    entry = image.entry
    places = [(entry.rip, 1), (entry.gdt_base, entry.gdt_limit + 1)]
    if entry.mode == "long":
        places += [(entry.cr3, 6 * 4096)]
        places += [(entry.rsi, 4096)] if image.format == "bzImage" else [(entry.rdi, 1)]
    else:
        places += [(entry.rbx, 88)]
    for start, size in places:
        assert start < 1 << 32
        assert any(segment[0] <= start and start + size <= segment[1] for segment in ends), hex(start)
    assert any(ram.start < entry.rsp <= ram.end for ram in memory)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_mutations_load_or_end_in_an_image_error(kind, seed, tmp_path):
    data, headers = FORMATS[kind]
    chance = random.Random(f"{kind} {seed}")
    (tmp_path / "initrd").write_bytes(b"initrd" * 1000)
    path = tmp_path / "image"
    path.write_bytes(data)
    check(load(str(path), RAM, append="quiet", initrd=str(tmp_path / "initrd")), RAM)
    loaded = 0
    for number in range(200):
        mutated = mutate(data, headers, chance)
        path.write_bytes(mutated)
        started = time.process_time()
        try:
            check(load(str(path), RAM, append="quiet", initrd=str(tmp_path / "initrd")), RAM)
            loaded += 1
        except ImageError:
            pass
        except Exception as error:
            raise AssertionError(f"mutation {number}: {mutated[:headers].hex()}") from error
        assert time.process_time() - started < 1
    assert 10 < loaded < 190


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation_of_the_headers(kind, tmp_path):
    data, headers = FORMATS[kind]
    path: Path = tmp_path / "image"
    for size in range(1, headers):
        path.write_bytes(data[:size])
        with pytest.raises(ImageError):
            load(str(path), RAM)


def test_raw_binaries_at_any_address(tmp_path):
    chance = random.Random(7)
    path = tmp_path / "image"
    loaded = 0
    for _ in range(200):
        path.write_bytes(chance.randbytes(chance.choice((1, 100, 5000, 2 * MIB))))
        address = chance.choice((chance.randrange(64 * MIB), chance.choice(EXTREMES), -1, (1 << 32) + 5))
        try:
            image = load(str(path), RAM, address=address)
        except ImageError:
            continue
        check(image, RAM)
        loaded += 1
    assert 20 < loaded < 180


def test_many_segments_load_within_a_second(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(Elf(segments=[Segment(b"\x90", 0x100000 + 2 * n) for n in range(256)]).write())
    started = time.process_time()
    assert len(load(str(path), RAM).segments) == 256 + 3
    assert time.process_time() - started < 1
