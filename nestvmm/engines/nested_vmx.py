"""VMX by software: what level n's processor says that it has of it, and what answers for it.

Intel SDM vol. 3, appendix A. Offered is what the processor's own VMX, as its KVM gives it to the switcher, can do for a
guest, and what native/nested_vmx_*.c composes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines.engine import MsrRange
from nestvmm.engines.guest_paging import physical_bits
from nestvmm.engines.nested import Nested
from nestvmm.engines.register_bits import efer_bits
from nestvmm.engines.virtualization import VMX
from nestvmm.engines.vmx_intercepts import msr_bitmap
from nestvmm.kvm import CpuidEntry
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope

__all__ = ["NestedVmx", "capabilities"]

_ALL: Final = (1 << 64) - 1

_WRITE_BACK: Final = 6
# INS and OUTS tell; true controls.
_BASIC: Final = lib.NV_VIRTUAL_VMCS_REVISION | 4096 << 32 | _WRITE_BACK << 50 | 1 << 54 | 1 << 55
_LARGEST_INDEX: Final = 23  # of a field's encoding: the preemption timer's value


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


# By the MSR with the true controls: those that must be set, those that the front-end composes, and which of the first
# may not be clear where a hypervisor does not know of true controls (appendix A.3 to A.5).
_CONTROLS: Final = {
    0x48D: (0x16, _bits(0, 3, 5, 6), 0x481, 0),
    0x48E: (0x04006172, _bits(2, 3, 7, 9, 10, 11, 12, 15, 16, 19, 20, 22, 23, 24, 25, 28, 29, 30, 31), 0x482, 3 << 15),
    0x48F: (0x36DFB, _bits(2, 9, 15, 18, 19, 20, 21, 22), 0x483, 1 << 2),
    0x490: (0x11FB, _bits(2, 9, 14, 15), 0x484, 1 << 2),
}
# EPT, descriptor tables, RDTSCP, VPID, WBINVD, unrestricted guest, RDRAND, INVPCID, RDSEED, XSAVES.
_SECONDARY: Final = _bits(1, 2, 3, 5, 6, 7, 11, 12, 16, 20)
# PAT and the debug controls are L0's to move.
_BY_SOFTWARE: Final = {0x48D: 0, 0x48E: 0, 0x48F: _bits(2, 15, 18, 19, 20, 21), 0x490: _bits(2, 9, 14, 15)}
_BY_SOFTWARE_SECONDARY: Final = _bits(5)
# Four levels, uncached and write-back, 2 MiB and 1 GiB, INVEPT and INVVPID of every type.
_EPT_VPID: Final = _bits(6, 8, 14, 16, 17, 20, 25, 26, 32, 40, 41, 42, 43)
_MISC_KEPT: Final = 0x1F | 1 << 30  # the timer's rate; whether software exceptions of length 0 can be injected
_STORES_MODE: Final = 1 << 5
_HALTED: Final = 1 << 6
_CR3_TARGETS: Final = 4 << 16
_PRIMARY: Final = 0x48E
_TPR_SHADOW: Final = 1 << 21


def capabilities(own: Mapping[int, int], halts: bool) -> list[int]:
    """IA32_VMX_BASIC and the MSRs behind it, as level n sees them.

    own:    those of the processor, as KVM gives them to the switcher
    halts:  whether KVM wakes a halted guest: it has the interrupt controller, without which it keeps to itself every
            move of a nested guest to CR8, the TPR shadow's too
    """
    shown = {0x480: _BASIC, 0x48A: _LARGEST_INDEX << 1, 0x48C: _EPT_VPID, 0x491: 0}
    shown[0x485] = own[0x485] & _MISC_KEPT | _STORES_MODE | (_HALTED if halts else 0) | _CR3_TARGETS
    for index in range(0x486, 0x48A):
        shown[index] = own[index]
    for true, (must, offered, plain, rigid) in _CONTROLS.items():
        shadow = _TPR_SHADOW if true == _PRIMARY and halts else 0
        may = must | (offered | shadow) & (own[true] >> 32 | _BY_SOFTWARE[true])
        shown[true] = must | may << 32
        shown[plain] = must | rigid | (may | rigid) << 32
    shown[0x48B] = (_SECONDARY & (own[0x48B] >> 32 | _BY_SOFTWARE_SECONDARY)) << 32
    return [shown[index] for index in range(0x480, 0x480 + lib.NV_VMX_CAPABILITIES)]


class NestedVmx(Nested):
    """The software VMX of one vCPU; see nestvmm.engines.nested.Nested."""

    tables: ClassVar[int] = lib.NV_SHADOW_EPT

    def _init(self) -> None:
        self.c.take = ffi.addressof(lib, "nv_nested_vmx_take")
        lib.nv_nested_vmx_init(self.c)

    def _msr_map(self, ranges: Iterable[MsrRange]) -> bytes:
        return msr_bitmap(ranges)

    def limit(self, own: Mapping[int, int], halts: bool, entries: Sequence[CpuidEntry]) -> None:
        """Takes what level n's processor has; see `capabilities`."""
        limits = self.c.vmx_limits
        limits.msr = capabilities(own, halts)
        limits.physical_reserved = _ALL & -(1 << physical_bits(entries))
        limits.efer_allowed = efer_bits(entries)

    def request_timer(self, space: int, cycles: int) -> None:
        """See nestvmm.engines.engine.Engine.request_timer_above."""
        pending = lib.nv_nested_pending(self.c, space)
        pending.deadline, pending.timer = 0, cycles

    def servers(self, vmx: Any) -> list[tuple[Scope, Server]]:
        """What answers VMX's instructions; `vmx` is the cffi `struct nv_vmx *`."""
        server = Server(ffi.addressof(lib, "nv_nested_vmx_serve"), vmx)
        return [(Scope(reason), server) for reason in (ExitReason.VMX_INSTRUCTION, ExitReason.HYPERCALL)]

    def show(self, entries: Sequence[CpuidEntry]) -> list[CpuidEntry]:
        """Level n's CPUID; whether it shows VMX is whether level n has it."""
        self.c.visible = VMX.shown(entries)
        return list(entries)
