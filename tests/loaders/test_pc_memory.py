from nestvmm.loaders.image import MemoryRange
from nestvmm.loaders.pc_memory import RESERVED, USABLE, lower_and_upper, memory_map

FIXED = [(0x9FC00, 0x400, RESERVED), (0xF0000, 0x10000, RESERVED), (0xFFFBC000, 0x44000, RESERVED)]


def test_the_map_of_a_plain_pc():
    regions = memory_map([MemoryRange(0, 128 << 20)])
    assert regions == [(0, 0x9FC00, USABLE), FIXED[0], FIXED[1], (0x100000, 0x7F00000, USABLE), FIXED[2]]
    assert lower_and_upper(regions) == (639, 127 * 1024)


def test_ram_above_4_gib_and_holes_are_listed():
    regions = memory_map([MemoryRange(0, 0xC0000000), MemoryRange(1 << 32, 1 << 30), MemoryRange(1 << 36, 4096)])
    assert regions[-3:] == [FIXED[2], (1 << 32, 1 << 30, USABLE), (1 << 36, 4096, USABLE)]
    assert lower_and_upper(regions) == (639, 0xBFF00000 // 1024)


def test_small_and_odd_ram():
    assert memory_map([MemoryRange(0, 0x80000)]) == [(0, 0x80000, USABLE), *FIXED]
    assert memory_map([MemoryRange(0x9FC00, 0x60400)]) == FIXED
    assert lower_and_upper(memory_map([MemoryRange(0x80000, 0x20000)])) == (0, 0)
    assert memory_map([MemoryRange(0xFFF00000, 0x200000)]) == [
        *FIXED[:2],
        (0xFFF00000, 0xBC000, USABLE),
        FIXED[2],
        (0x100000000, 0x100000, USABLE),
    ]
