"""What a VMCS is to stop level n for: VM-execution controls, within what KVM's capability MSRs allow, and bitmaps.

Intel SDM vol. 3, 25.6 and appendix A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from nestvmm.engines.engine import MsrRange
from nestvmm.errors import HostError
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.exit_row import Handlers
from nestvmm.x86.scope import Scope
from nestvmm.x86.vmx_exits import VMX_EXITS

__all__ = [
    "CAPABILITIES",
    "MSR_BITMAP_SIZE",
    "PORT_BITMAPS_SIZE",
    "Controls",
    "controls",
    "exceptions",
    "msr_bitmap",
    "port_bitmaps",
    "writes_exit",
]

MSR_BITMAP_SIZE: Final = 0x1000
PORT_BITMAPS_SIZE: Final = 0x2000


class _Group(NamedTuple):
    """One field of controls.

    msr:      the capability MSR: bits that must be 1 below, bits that may be 1 above (appendix A.3 to A.5)
    needed:   what this engine cannot do without, by name
    welcome:  what it sets where it can: level n has instructions by it, or loses nothing
    """

    msr: int
    needed: Mapping[str, int]
    welcome: int = 0


_GROUPS: Final = {
    "pin": _Group(0x48D, {"NMI exiting": 3, "virtual NMIs": 5}),
    "primary": _Group(0x48E, {"MSR bitmaps": 28, "secondary controls": 31}),
    "secondary": _Group(
        0x48B,
        {"EPT": 1, "unrestricted guests": 7},
        1 << 3 | 1 << 12 | 1 << 20 | 1 << 26,  # RDTSCP, INVPCID, XSAVES, user wait and pause
    ),
    "exit": _Group(
        0x48F,
        {
            "saving debug controls": 2,
            "a 64-bit host": 9,
            "saving EFER": 20,
            "loading the host's EFER": 21,
        },
    ),
    "entry": _Group(0x490, {"loading debug controls": 2, "loading EFER": 15}),
}
CAPABILITIES: Final = tuple(group.msr for group in _GROUPS.values())
_USE_IO_BITMAPS: Final = ("primary", 25)
_PAUSE_LOOPS: Final = ("secondary", 10)

# Loads and stores of control registers that have a control of their own: reason, register, bit of the primary controls.
_REGISTERS: Final = (
    (ExitReason.CR_WRITE, 3, 15),
    (ExitReason.CR_READ, 3, 16),
    (ExitReason.CR_WRITE, 8, 19),
    (ExitReason.CR_READ, 8, 20),
)
# Exits that are not by a control alone: by bitmaps and masks, or on request.
_OTHERWISE: Final = frozenset(
    {
        ExitReason.IO,
        ExitReason.RDMSR,
        ExitReason.WRMSR,
        ExitReason.CR_READ,
        ExitReason.CR_WRITE,
        ExitReason.EXCEPTION,
        ExitReason.INTERRUPT_WINDOW,
        ExitReason.NMI_WINDOW,
        ExitReason.PREEMPTION_TIMER,
    }
)


class Controls(NamedTuple):
    """The fields of controls."""

    pin: int
    primary: int
    secondary: int
    exit: int
    entry: int


def _bits(scope: Scope) -> set[tuple[str, int]]:
    """The controls that events of this scope need: group and bit."""
    if scope.reason is ExitReason.IO:
        return {_USE_IO_BITMAPS}
    if scope.reason in (ExitReason.CR_READ, ExitReason.CR_WRITE):
        return {
            ("primary", bit)
            for reason, number, bit in _REGISTERS
            if reason is scope.reason and scope.first <= number <= scope.last
        }
    if scope.reason in _OTHERWISE:
        return set()
    return {
        (intercept.field, intercept.bit)
        for row in VMX_EXITS.values()
        if scope.reason in row.reasons and row.handlers is not Handlers.NEVER
        for intercept in row.intercepts
        if intercept.field in _GROUPS and intercept != _PAUSE_LOOPS
    }


def controls(wanted: Iterable[Scope], capabilities: Mapping[int, int]) -> Controls:
    """The controls that make these events exit.

    capabilities: the MSRs of CAPABILITIES, as KVM has them

    Raises HostError, naming it, for what this KVM does not offer.
    """
    asked = [(scope.reason, group, bit) for scope in wanted for group, bit in _bits(scope)]
    values = {}
    for name, group in _GROUPS.items():
        may, must = capabilities[group.msr] >> 32, capabilities[group.msr] & 0xFFFFFFFF
        value = must | group.welcome & may
        for what, bit in group.needed.items():
            if not may >> bit & 1:
                raise HostError(f"engine vmx: the VMX of this host's KVM lacks {what}; `nestvmm doctor` says more")
            value |= 1 << bit
        for reason, place, bit in asked:
            if place != name:
                continue
            if not may >> bit & 1:
                raise HostError(
                    f"engine vmx: this host's KVM cannot trap {reason.label}: its VMX lacks {name} bit {bit}"
                )
            value |= 1 << bit
        values[name] = value
    return Controls(**values)


def exceptions(wanted: Iterable[Scope]) -> int:
    """The exception bitmap."""
    scopes = [scope for scope in wanted if scope.reason is ExitReason.EXCEPTION]
    return sum(1 << vector for vector in range(32) if any(one.first <= vector <= one.last for one in scopes))


def writes_exit(wanted: Iterable[Scope], number: int) -> bool:
    """Whether writes of CR0 or CR4 are wanted."""
    return any(scope.covers(ExitReason.CR_WRITE, number, Direction.WRITE) for scope in wanted)


def msr_bitmap(ranges: Iterable[MsrRange]) -> bytes:
    """The MSR bitmap (25.6.9): reads of low and of high MSRs, then writes. What it does not have exits anyway."""
    bits = 0
    for one in ranges:
        for start, base in ((0, 0), (0x2000, 0xC0000000)):
            first, last = max(one.first - base, 0), min(one.last - base, 0x1FFF)
            if first > last:
                continue
            chosen = (1 << last + 1) - (1 << first)
            for exits, way in ((one.read, 0), (one.write, 0x4000)):
                if exits:
                    bits |= chosen << start + way
    return bits.to_bytes(MSR_BITMAP_SIZE, "little")


def port_bitmaps(wanted: Iterable[Scope]) -> bytes:
    """I/O bitmaps A and B (25.6.4); they know no directions."""
    bits = 0
    for scope in wanted:
        if scope.reason is ExitReason.IO and scope.first <= 0xFFFF:
            bits |= (1 << min(scope.last, 0xFFFF) + 1) - (1 << scope.first)
    return bits.to_bytes(PORT_BITMAPS_SIZE, "little")
