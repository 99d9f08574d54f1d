"""The VM-execution controls that make wanted exits happen, within what KVM's capability MSRs allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from nestvmm._native import lib
from nestvmm.errors import HostError
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.vmx_exits import VMX_EXITS

__all__ = ["CAPABILITIES", "CONTROL_REASONS", "controls_for"]


class _Group(NamedTuple):
    """One field of controls.

    field:    its encoding
    msr:      the capability MSR: bits that must be 1 below, that may be 1 above (Intel SDM vol. 3, appendix A.3)
    needed:   what this engine cannot do without, by name
    welcome:  what it sets where it can, because level n then has an instruction
    """

    field: int
    msr: int
    needed: Mapping[str, int]
    welcome: int = 0


_GROUPS: Final = {
    "pin": _Group(lib.NV_VMCS_PIN_CONTROLS, 0x48D, {"NMI exiting": 3, "virtual NMIs": 5}),
    "primary": _Group(lib.NV_VMCS_PRIMARY_CONTROLS, 0x48E, {"MSR bitmaps": 28, "secondary controls": 31}),
    "secondary": _Group(
        lib.NV_VMCS_SECONDARY_CONTROLS,
        0x48B,
        {"EPT": 1, "unrestricted guests": 7},
        1 << 3 | 1 << 12 | 1 << 20 | 1 << 26,  # RDTSCP, INVPCID, XSAVES, user wait and pause
    ),
    "exit": _Group(
        lib.NV_VMCS_EXIT_CONTROLS,
        0x48F,
        {"saving debug controls": 2, "a 64-bit host": 9, "saving EFER": 20, "loading the host's EFER": 21},
    ),
    "entry": _Group(lib.NV_VMCS_ENTRY_CONTROLS, 0x490, {"loading debug controls": 2, "loading EFER": 15}),
}
CAPABILITIES: Final = tuple(group.msr for group in _GROUPS.values())

_ALTERNATIVE: Final = {"exception bitmap", "CR0 mask", "CR4 mask", "I/O bitmaps", "MSR bitmaps"}


def _bits(reason: ExitReason) -> list[tuple[str, int]]:
    """The controls of a reason that one bit switches on."""
    return [
        (intercept.field, intercept.bit)
        for row in VMX_EXITS.values()
        if reason in row.reasons
        for intercept in row.intercepts
        if intercept.bit >= 0
    ]


#: The reasons whose exits a bit of the controls switches on, or that always exit.
CONTROL_REASONS: Final = frozenset(
    {
        ExitReason.CPUID,
        ExitReason.RDTSC,
        ExitReason.RDTSCP,
        ExitReason.RDPMC,
        ExitReason.HLT,
        ExitReason.PAUSE,
        ExitReason.MONITOR,
        ExitReason.MWAIT,
        ExitReason.INVLPG,
        ExitReason.INVPCID,
        ExitReason.INVD,
        ExitReason.WBINVD,
        ExitReason.XSETBV,
        ExitReason.RDRAND,
        ExitReason.RDSEED,
        ExitReason.DESCRIPTOR_TABLE,
        ExitReason.HYPERCALL,
        ExitReason.VMX_INSTRUCTION,
        ExitReason.NMI,
        ExitReason.TASK_SWITCH,
    }
)


def controls_for(wanted: Iterable[ExitReason], capabilities: Mapping[int, int]) -> dict[int, int]:
    """The control fields by encoding.

    capabilities: the MSRs of CAPABILITIES that KVM has

    Raises HostError, naming it, for what this KVM does not offer.
    """
    values = {}
    asked = {bit for reason in wanted if reason in CONTROL_REASONS for bit in _bits(reason)}
    for name, group in _GROUPS.items():
        must, may = capabilities.get(group.msr, 0) & 0xFFFFFFFF, capabilities.get(group.msr, 0) >> 32
        for what, bit in group.needed.items():
            if not may >> bit & 1:
                raise HostError(f"engine vmx: this KVM's VMX lacks {what}; `nestvmm doctor` says more")
        want = sum(1 << bit for bit in group.needed.values()) | group.welcome & may
        for field, bit in asked:
            if field == name:
                want |= 1 << bit
        if lacking := want & ~may:
            raise HostError(f"engine vmx: this KVM cannot trap {_names(name, lacking, wanted)}")
        values[group.field] = want | must
    return values


def _names(group: str, bits: int, wanted: Iterable[ExitReason]) -> str:
    """The wanted reasons that need one of these bits."""
    return ", ".join(
        sorted(
            reason.label for reason in wanted if any(field == group and bits >> bit & 1 for field, bit in _bits(reason))
        )
    )
