"""MSRs that must exit, and the ranges of them as KVM's MSR filter takes them (api.rst, KVM_X86_SET_MSR_FILTER)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nestvmm.engines.engine import MsrRange
from nestvmm.kvm import MsrFilterRange
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope

__all__ = ["msr_filter", "msr_ranges", "msr_scopes", "spared_msrs"]

# KVM_MSR_FILTER_MAX_RANGES and KVM_MSR_FILTER_MAX_BITMAP_SIZE
_LAST = 0xFFFFFFFF
_RANGES = 16
_WINDOW = 0x600 * 8


def msr_ranges(scopes: Iterable[Scope]) -> list[MsrRange]:
    """The MSRs of those scopes that are about MSRs."""
    return [
        MsrRange(
            scope.first,
            min(scope.last, _LAST),
            read=scope.reason is ExitReason.RDMSR and scope.includes(Direction.READ),
            write=scope.reason is ExitReason.WRMSR and scope.includes(Direction.WRITE),
        )
        for scope in scopes
        if scope.reason in (ExitReason.RDMSR, ExitReason.WRMSR) and scope.first <= _LAST
    ]


def spared_msrs(ceilings: Iterable[tuple[int, Scope]], level: int) -> list[MsrRange]:
    """The accesses that an image at `level` cannot have, as they are designated to a lower level.

    ceilings:  level, and events that no level above it may have
    """
    return msr_ranges(scope for highest, scope in ceilings if highest < level)


def msr_scopes(ranges: Iterable[MsrRange]) -> list[Scope]:
    """Reads and writes of these MSRs."""
    return [Scope(reason, one.first, one.last) for one in ranges for reason in (ExitReason.RDMSR, ExitReason.WRMSR)]


def msr_filter(wanted: Sequence[MsrRange]) -> tuple[list[MsrFilterRange], bool]:
    """KVM's filter ranges, and whether everything else is denied too.

    KVM holds 16 windows of 12,288 MSRs. What does not fit in them makes all MSRs exit; those that no level claims are
    then answered by L0 with what KVM keeps of them. x2APIC's MSRs never exit.
    """
    reads = _joined((one.first, one.last) for one in wanted if one.read)
    writes = _joined((one.first, one.last) for one in wanted if one.write)
    if reads == writes:
        windows = _windows(reads, read=True, write=True)
    else:
        windows = [*_windows(reads, read=True, write=False), *_windows(writes, read=False, write=True)]
    # KVM refuses to deny everything without any range
    return ([MsrFilterRange(0)], True) if len(windows) > _RANGES else (windows, False)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted disjoint ranges that do not touch."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return joined


def _windows(ranges: list[tuple[int, int]], *, read: bool, write: bool) -> list[MsrFilterRange]:
    """Windows that deny these ranges and allow the gaps between them; may stop early past what KVM holds."""
    windows: list[MsrFilterRange] = []
    left = list(reversed(ranges))
    while left and len(windows) <= _RANGES:
        base = left[-1][0]
        end = base + _WINDOW - 1
        denied = []
        while left and left[-1][0] <= end:
            first, last = left.pop()
            denied.append((first - base, min(last, end) - base))
            if last > end:
                left.append((end + 1, last))
                break
        windows.append(_window(base, denied, read=read, write=write))
    return windows


def _window(base: int, denied: list[tuple[int, int]], *, read: bool, write: bool) -> MsrFilterRange:
    count = denied[-1][1] + 1
    allowed = (1 << count) - 1
    for first, last in denied:
        allowed &= ~((1 << last + 1) - (1 << first))
    return MsrFilterRange(base, count, allowed.to_bytes((count + 7) // 8, "little"), read, write)
