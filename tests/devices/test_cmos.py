"""The real-time clock and the CMOS memory."""

from datetime import UTC, datetime

import pytest
from port_access import read, read_string, write

from nestvmm.devices.cmos import Cmos

INDEX, DATA = 0, 1
MIB, GIB = 1 << 20, 1 << 30
SECOND = 1_000_000_000
# a Wednesday
NOON = int(datetime(2031, 12, 24, 23, 58, 7, tzinfo=UTC).timestamp()) * SECOND


def get(device: Cmos, index: int) -> int:
    write(device, INDEX, index)
    return read(device, DATA)


def put(device: Cmos, index: int, value: int) -> None:
    write(device, INDEX, index)
    write(device, DATA, value)


def word(device: Cmos, index: int) -> int:
    return get(device, index) | get(device, index + 1) << 8


CLOCK = (0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32)


def test_time_is_bcd() -> None:
    device = Cmos(MIB, lambda: NOON)
    assert [get(device, index) for index in CLOCK] == [0x07, 0x58, 0x23, 0x04, 0x24, 0x12, 0x31, 0x20]


def test_time_is_binary_on_request() -> None:
    device = Cmos(MIB, lambda: NOON)
    put(device, 0x0B, 0x06)
    assert [get(device, index) for index in CLOCK] == [7, 58, 23, 4, 24, 12, 31, 20]


@pytest.mark.parametrize(("hour", "shown"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)])
def test_twelve_hours_on_request(hour: int, shown: int) -> None:
    now = int(datetime(2031, 12, 24, hour, tzinfo=UTC).timestamp()) * SECOND
    device = Cmos(MIB, lambda: now)
    put(device, 0x0B, 0x00)
    assert get(device, 0x04) == shown


def test_the_clock_cannot_be_set() -> None:
    device = Cmos(MIB, lambda: NOON)
    for index in CLOCK:
        put(device, index, 0x99)
    assert [get(device, index) for index in CLOCK] == [0x07, 0x58, 0x23, 0x04, 0x24, 0x12, 0x31, 0x20]


def test_status_registers() -> None:
    device = Cmos(MIB, lambda: NOON)
    assert [get(device, index) for index in (0x0A, 0x0B, 0x0C, 0x0D)] == [0x26, 0x02, 0x00, 0x80]
    for index in (0x0A, 0x0B, 0x0C, 0x0D):
        put(device, index, 0xFF)
    assert [get(device, index) for index in (0x0A, 0x0B, 0x0C, 0x0D)] == [0x7F, 0x86, 0x00, 0x80]


def test_an_update_is_announced_244_us_ahead() -> None:
    now = NOON
    device = Cmos(MIB, lambda: now)
    now = NOON + SECOND - 244_001
    assert get(device, 0x0A) == 0x26
    now = NOON + SECOND - 244_000
    assert get(device, 0x0A) == 0xA6
    put(device, 0x0B, 0x82)
    assert get(device, 0x0A) == 0x26, "SET stops updates"
    put(device, 0x0B, 0x02)
    now = NOON + SECOND
    assert get(device, 0x0A) == 0x26


@pytest.mark.parametrize(
    ("ram", "extended", "above_16m", "above_4g"),
    [
        (MIB, 0, 0, 0),
        (16 * MIB, 15 * 1024, 0, 0),
        (64 * MIB, 63 * 1024, 768, 0),
        (128 * MIB, 65535, 1792, 0),
        (3 * GIB, 65535, 48896, 0),
        (4 * GIB, 65535, 48896, 16384),
        (35 * GIB, 65535, 48896, 0x80000),
    ],
)
def test_memory_size(ram: int, extended: int, above_16m: int, above_4g: int) -> None:
    device = Cmos(ram)
    assert word(device, 0x15) == 640
    assert word(device, 0x17) == extended
    assert word(device, 0x30) == extended
    assert word(device, 0x34) == above_16m
    assert word(device, 0x5B) | get(device, 0x5D) << 16 == above_4g


def test_memory_smaller_than_a_pcs() -> None:
    assert word(Cmos(64 << 10), 0x15) == 64


def test_memory_keeps_what_is_written() -> None:
    device = Cmos(MIB)
    for index in range(0x60, 0x80):
        put(device, index, index ^ 0xFF)
    assert [get(device, index) for index in range(0x60, 0x80)] == [index ^ 0xFF for index in range(0x60, 0x80)]


def test_index_ignores_the_nmi_bit_and_cannot_be_read() -> None:
    device = Cmos(MIB)
    put(device, 0x70, 0x5A)
    assert get(device, 0xF0) == 0x5A
    assert read(device, INDEX) == 0xFF


def test_a_wide_write_sets_index_and_data() -> None:
    device = Cmos(MIB)
    write(device, INDEX, 0x5A70, 2)
    assert get(device, 0x70) == 0x5A
    assert read_string(device, DATA, 2, 2) == b"\x5a\xff\x5a\xff"


def test_the_clock_is_the_hosts() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    device = Cmos(MIB)
    put(device, 0x0B, 0x06)
    found: list[int] = []
    # as Linux does: a second may end in between
    while found != (found := [get(device, index) for index in CLOCK]):
        pass
    second, minute, hour, _, day, month, year, century = found
    assert before <= datetime(century * 100 + year, month, day, hour, minute, second, tzinfo=UTC) <= datetime.now(UTC)
