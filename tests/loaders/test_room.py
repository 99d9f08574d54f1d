import pytest

from nestvmm.errors import ImageError
from nestvmm.loaders.image import MemoryRange
from nestvmm.loaders.room import Room, align_up, in_bytes

MIB = 1 << 20


def test_sizes_are_named_exactly_or_rounded_up():
    assert [in_bytes(n) for n in (0, 5, 4096, 16384, 16385, 3 * MIB, 2 << 30)] == [
        "0 bytes",
        "5 bytes",
        "4 KiB",
        "16 KiB",
        "17 KiB",
        "3 MiB",
        "2 GiB",
    ]
    assert [align_up(n, 16) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]


def test_neighbouring_ranges_are_one_and_holes_stay():
    room = Room([MemoryRange(MIB, MIB), MemoryRange(0, MIB), MemoryRange(4 * MIB, MIB), MemoryRange(9 * MIB, 0)])
    assert room.ram == [(0, 2 * MIB), (4 * MIB, MIB)]
    assert room.size == 3 * MIB
    room.put(MIB - 8, b"x" * 16, "across the seam")
    assert room.segments == [(MIB - 8, b"x" * 16)]


@pytest.mark.parametrize("memory", [[], [(0, 0)], [(0, 2 * MIB), (MIB, MIB)], [(-4096, 8192)]])
def test_no_ram_and_overlapping_ram_are_refused(memory):
    with pytest.raises(ImageError, match="RAM"):
        Room([MemoryRange(*ram) for ram in memory])


@pytest.mark.parametrize(
    ("start", "size"), [(2 * MIB - 8, 16), (3 * MIB, 1), (4 * MIB - 1, 2), (1 << 64, 8), ((1 << 64) - 8, 16), (-8, 8)]
)
def test_nothing_is_put_outside_ram(start, size):
    room = Room([MemoryRange(0, 2 * MIB), MemoryRange(4 * MIB, MIB)])
    with pytest.raises(
        ImageError, match=r"thing at .* is not inside RAM, 3 MiB at 0x0\.\.0x1fffff, 0x400000\.\.0x4fffff"
    ):
        room.put(start, b"", "thing", size)
    assert room.segments == []


def test_zeros_behind_the_data_are_owned_too():
    room = Room([MemoryRange(0, MIB)])
    room.put(0x1000, b"abc", "kernel", 0x100)
    room.put(0x1100, b"d", "next")
    with pytest.raises(ImageError, match=r"other at 0x10ff\.\.0x10ff overlaps kernel at 0x1000\.\.0x10ff"):
        room.put(0x10FF, b"e", "other")
    assert room.segments == [(0x1000, b"abc"), (0x1100, b"d")]


def test_room_is_found_at_both_ends_of_the_allowed_window():
    room = Room([MemoryRange(0, MIB), MemoryRange(2 * MIB, MIB)], avoid=[MemoryRange(0x3000, 0x1000)])
    assert room.place(b"a" * 0x1800, "a") == 0x1000
    assert room.place(b"b" * 0x1000, "b", align=0x1000) == 0x4000
    assert room.place(b"c", "c") == 0x2800
    assert room.place(b"d" * 0x1001, "d", align=0x1000, top=True) == 3 * MIB - 0x2000
    assert room.place(b"e", "e", align=1, high=MIB, top=True) == MIB - 1
    assert room.place(b"f", "f", low=0x20001) == 0x20010
    assert room.place(b"g", "g", low=MIB) == 2 * MIB


def test_room_is_never_above_4_gib_unasked():
    with pytest.raises(ImageError, match="no room for x: 1 bytes needed below 4 GiB, largest free piece there 0 bytes"):
        Room([MemoryRange(1 << 32, MIB)]).place(b"x", "x")


def test_a_want_of_room_tells_the_sizes():
    with pytest.raises(
        ImageError,
        match=r"no room for the initrd: 2 MiB needed between 0x0 and 0xfffff, largest free piece there 1020 KiB, "
        r"1 MiB at 0x0\.\.0xfffff: give the guest more with -m",
    ):
        Room([MemoryRange(0, MIB)]).claim(2 * MIB, "the initrd", high=MIB)
