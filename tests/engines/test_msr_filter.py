"""The MSR filter against what was wanted, MSR by MSR."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nestvmm.engines import MsrRange
from nestvmm.engines.msr_filter import msr_filter, spared_msrs
from nestvmm.kvm import Cap, Kvm, MsrFilterRange
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope

LAST = 0xFFFFFFFF
WINDOW = 12288
BASES = [0, 0x10, 0x800, 0x2FFF, 0x3000, 0x40000000, 0xC0000080, 0xC0010000, LAST - 20]


@st.composite
def ranges(draw: st.DrawFn) -> MsrRange:
    first = min(draw(st.sampled_from(BASES)) + draw(st.integers(0, 40)), LAST)
    length = draw(st.integers(0, 20) | st.sampled_from([100, WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW]))
    read, write = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    return MsrRange(first, min(first + length, LAST), read, write)


def exits(filter_ranges: list[MsrFilterRange], deny: bool, index: int, write: bool) -> bool:
    """KVM's rule (kvm_msr_allowed): the first range of that direction that has the MSR decides, else the default."""
    for one in filter_ranges:
        if (one.write if write else one.read) and one.base <= index < one.base + one.count:
            offset = index - one.base
            return not (one.allowed and one.allowed[offset // 8] >> offset % 8 & 1)
    return deny


def check(wanted: list[MsrRange]) -> tuple[list[MsrFilterRange], bool]:
    filter_ranges, deny = msr_filter(wanted)
    edges = {edge for one in wanted for edge in (one.first, one.last)} | {
        edge for one in filter_ranges for edge in (one.base, one.base + one.count - 1)
    }
    for index in {edge + step for edge in edges for step in (-1, 0, 1)}:
        if 0 <= index <= LAST:
            for write in (False, True):
                asked = any((one.write if write else one.read) and one.first <= index <= one.last for one in wanted)
                assert exits(filter_ranges, deny, index, write) == (asked or deny), f"{index:#x} write {write}"
    return filter_ranges, deny


@given(st.lists(ranges(), min_size=1, max_size=6))
@example([MsrRange(0, 5 * WINDOW, True, False), MsrRange(10, 20, False, True)])
@example([MsrRange(0, 0, True, True), MsrRange(1, 1, True, True), MsrRange(WINDOW, WINDOW, True, True)])
def test_an_msr_exits_exactly_when_a_level_wants_it(wanted: list[MsrRange]) -> None:
    filter_ranges, deny = check(wanted)
    assert 1 <= len(filter_ranges) <= 16
    assert all(1 <= one.count <= WINDOW for one in filter_ranges)
    assert all(one.base + one.count - 1 <= LAST for one in filter_ranges)
    assert not deny or filter_ranges == [MsrFilterRange(0)]


def test_neighbours_share_a_window_and_the_gap_between_stays() -> None:
    filter_ranges, deny = check([MsrRange(0x10, 0x11, True, True), MsrRange(0x14, 0x14, True, True)])
    assert (filter_ranges, deny) == ([MsrFilterRange(0x10, 5, b"\x0c", True, True)], False)


def test_reads_and_writes_that_differ_have_windows_of_their_own() -> None:
    filter_ranges, deny = check([MsrRange(0x10, 0x10, True, False), MsrRange(0x20, 0x20, False, True)])
    assert filter_ranges == [
        MsrFilterRange(0x10, 1, b"\0", True, False),
        MsrFilterRange(0x20, 1, b"\0", False, True),
    ]
    assert not deny


@pytest.mark.parametrize(("windows", "denied"), [(16, False), (17, True)])
def test_what_does_not_fit_makes_all_exit(windows: int, denied: bool) -> None:
    filter_ranges, deny = check([MsrRange(i * 0x100000, i * 0x100000, True, True) for i in range(windows)])
    assert deny == denied
    assert len(filter_ranges) == (1 if denied else 16)


def test_what_is_designated_to_a_lower_level_is_spared() -> None:
    ceilings = [
        (0, Scope(ExitReason.RDMSR, 0x10, 0x12)),
        (1, Scope(ExitReason.WRMSR, 0x20, 0x20)),
        (1, Scope(ExitReason.RDMSR, 0x30, 0x30, Direction.WRITE)),
        (2, Scope(ExitReason.WRMSR)),
        (0, Scope(ExitReason.IO, 0x40, 0x40)),
    ]
    reads, write = MsrRange(0x10, 0x12, True, False), MsrRange(0x20, 0x20, False, True)
    nothing, writes = MsrRange(0x30, 0x30, False, False), MsrRange(0, LAST, False, True)
    assert spared_msrs(ceilings, 1) == [reads]
    assert spared_msrs(ceilings, 2) == [reads, write, nothing]
    assert spared_msrs(ceilings, 3) == [reads, write, nothing, writes]


@pytest.mark.kvm
@pytest.mark.parametrize(
    "wanted",
    [
        [MsrRange(0, LAST, True, True)],
        [MsrRange(0, LAST, True, False)],
        [MsrRange(i * 0x100000, i * 0x100000 + 9, True, False) for i in range(8)],
        [MsrRange(0, 16 * WINDOW - 1, True, True)],
        [MsrRange(LAST - 3, LAST, True, True)],
    ],
)
def test_kvm_takes_it(wanted: list[MsrRange]) -> None:
    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.enable_cap(Cap.X86_USER_SPACE_MSR, 7)
        vm.set_msr_filter(*msr_filter(wanted))
