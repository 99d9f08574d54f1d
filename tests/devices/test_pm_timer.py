"""The PM timer: 3.579545 MHz, 24 bits."""

import time

from port_access import answer_write, read

from nestvmm.devices.pm_timer import PmTimer
from nestvmm.x86.event import Result


def test_counts_at_its_frequency() -> None:
    now = 0
    timer = PmTimer(lambda: now)
    assert read(timer, 0, 4) == 0
    now = 1_000_000_000
    assert read(timer, 0, 4) == 3_579_545
    now = 279_365
    assert read(timer, 0, 4) == 999


def test_wraps_at_24_bits() -> None:
    now = 0
    timer = PmTimer(lambda: now)
    now = 4_686_968_874
    assert read(timer, 0, 4) == 0xFFFFFF
    now = 4_686_968_875
    assert read(timer, 0, 4) == 0


def test_narrow_reads_give_their_part() -> None:
    timer = PmTimer(lambda: 1_000_000_000)
    assert (read(timer, 0), read(timer, 1), read(timer, 2), read(timer, 3)) == (0x99, 0x9E, 0x36, 0x00)
    assert (read(timer, 0, 2), read(timer, 2, 2), read(timer, 2, 4)) == (0x9E99, 0x0036, 0x36)


def test_writes_are_dropped() -> None:
    timer = PmTimer(lambda: 1_000_000_000)
    assert answer_write(timer, 0, bytes(4), 4) == Result.handled()
    assert read(timer, 0, 4) == 3_579_545


def test_follows_the_monotonic_clock() -> None:
    timer = PmTimer()
    before = time.monotonic_ns()
    count = read(timer, 0, 4)
    after = time.monotonic_ns()
    least, most = (ns * 3_579_545 // 1_000_000_000 for ns in (before, after))
    assert (count - least) % (1 << 24) <= most - least
