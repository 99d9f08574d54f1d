"""The bare loop by VMRESUME: its code moves RIP behind the nested guest's CPUID by VMREAD and VMWRITE.

The process reads the exit reason as a program without shared memory does: by KVM_GET_REGS.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from nestvmm._native import lib
from nestvmm.bench.bare_loop import CODE, DOORBELL, GUEST, LONG_MODE, PML4, BareLoop
from nestvmm.engines import VmxEngine
from nestvmm.kvm import DescriptorTable, HostMemory, Segment, Sregs, Vcpu

__all__ = ["VmxLoop"]

_VMXON, _VMCS, _POINTERS = 0x6000, 0x7000, 0x8000
_GDT, _TSS = 0x9000, 0x9800
_EPT_PML4, _EPT_PDPT, _EPT_PD = 0xA000, 0xB000, 0xC000
_STACK: Final = 0x10000
_FEATURE_CONTROL, _BASIC, _LOCKED_VMX = 0x3A, 0x480, 5
_CR0_NE, _CR4_VMXE = 1 << 5, 1 << 13
_SELECTORS: Final = (16, 8, 16, 16, 16, 16)  # ES, CS, SS, DS, FS, GS
_TASK: Final = 24

# Fields of controls: the MSR that says what they must and may be, and what is wanted: external interrupts; HLT,
# unconditional I/O and the secondary ones; EPT, unrestricted guests; a 64-bit host, EFER saved and loaded; long mode,
# EFER loaded (Intel SDM vol. 3, 25.6 and appendix A).
_CONTROLS: Final = {
    lib.NV_VMCS_PIN_CONTROLS: (0x48D, 1 << 0),
    lib.NV_VMCS_PRIMARY_CONTROLS: (0x48E, 1 << 31 | 1 << 24 | 1 << 7),
    lib.NV_VMCS_SECONDARY_CONTROLS: (0x48B, 1 << 7 | 1 << 1),
    lib.NV_VMCS_EXIT_CONTROLS: (0x48F, 1 << 21 | 1 << 20 | 1 << 9),
    lib.NV_VMCS_ENTRY_CONTROLS: (0x490, 1 << 15 | 1 << 9),
}


def _move(register: int, value: int) -> bytes:
    """MOV of 64 bits to RAX (0), RCX (1), RDX (2) or RBX (3)."""
    return bytes((0x48, 0xB8 + register)) + struct.pack("<Q", value)


def _write(field: int, value: int) -> bytes:
    return _move(0, field) + _move(3, value) + b"\x0f\x79\xc3"  # vmwrite rbx, rax


def _read(field: int, register: int) -> bytes:
    return b"\xb8" + struct.pack("<I", field) + b"\x0f\x78" + bytes((0xC0 | register,))  # vmread rax, register


_START: Final = (
    (_move(0, _POINTERS) + b"\xf3\x0f\xc7\x30")  # vmxon
    + (_move(0, _POINTERS + 8) + b"\x66\x0f\xc7\x30")  # vmclear
    + b"\x0f\xc7\x30"  # vmptrld
)
_FAILED: Final = _read(lib.NV_VMCS_INSTRUCTION_ERROR, 0) + bytes((0xE7, DOORBELL))
# vmread of the reason, which rings; vmread of length and RIP, add, vmwrite; vmresume
_EXIT: Final = (
    _read(lib.NV_VMCS_EXIT_REASON, 3)
    + bytes((0xE7, DOORBELL))
    + _read(lib.NV_VMCS_EXIT_LENGTH, 1)
    + _read(lib.NV_VMCS_GUEST_RIP, 2)
    + b"\x48\x01\xca\x0f\x79\xc2\x0f\x01\xc3"
    + _FAILED
)


class VmxLoop(BareLoop):
    """See BareLoop."""

    instruction: ClassVar[str] = "VMRESUME"
    engine: ClassVar[type[VmxEngine]] = VmxEngine

    def _prepare(self, vcpu: Vcpu, memory: HostMemory, sregs: Sregs) -> None:
        sregs.cr0 |= _CR0_NE
        sregs.cr4 |= _CR4_VMXE
        sregs.gdt = DescriptorTable(_GDT, 0x2F)
        sregs.tr = Segment(_TSS, 0x67, _TASK, type=11, present=1)
        vcpu.set_sregs(sregs)
        vcpu.set_msrs({_FEATURE_CONTROL: _LOCKED_VMX})
        offered = vcpu.get_msrs([_BASIC, *(msr for msr, _ in _CONTROLS.values())])
        for region in (_VMXON, _VMCS):
            memory.write(region, struct.pack("<I", offered[_BASIC] & 0x7FFFFFFF))
        memory.write(_POINTERS, struct.pack("<2Q", _VMXON, _VMCS))
        task = 0x0000890000000067 | _TSS << 16
        memory.write(_GDT, struct.pack("<4Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, task))
        memory.write(_EPT_PML4, struct.pack("<Q", _EPT_PDPT | 7))
        memory.write(_EPT_PDPT, struct.pack("<Q", _EPT_PD | 7))
        memory.write(_EPT_PD, struct.pack("<Q", 0xB7))  # 2 MiB, write-back
        fields = {
            **{field: (want | offered[msr]) & offered[msr] >> 32 for field, (msr, want) in _CONTROLS.items()},
            **_fields(sregs),
        }
        written = _START + b"".join(_write(field, value) for field, value in fields.items())
        launch = b"\x0f\x01\xc2" + _FAILED
        host = CODE + len(written) + len(_write(0, 0)) + len(launch)
        memory.write(CODE, written + _write(lib.NV_VMCS_HOST_RIP, host) + launch + _EXIT)

    def _run(self, ticks: object) -> int:
        return int(lib.nv_bench_vmx(self._vcpu.fd, self._vcpu.kvm_run, self.trips, ticks))


def _fields(sregs: Sregs) -> dict[int, int]:
    """Host and guest state."""
    segments = {}
    for number, selector in enumerate(_SELECTORS):
        at = 2 * number
        segments[lib.NV_VMCS_HOST_ES + at] = segments[lib.NV_VMCS_GUEST_ES + at] = selector
        segments[lib.NV_VMCS_GUEST_ES_LIMIT + at] = 0xFFFFFFFF
        segments[lib.NV_VMCS_GUEST_ES_RIGHTS + at] = 0xA09B if selector == 8 else 0xC093
    tr, ldtr = 14, 12
    return {
        **segments,
        lib.NV_VMCS_EXCEPTION_BITMAP: 0,
        lib.NV_VMCS_LINK_POINTER: (1 << 64) - 1,
        lib.NV_VMCS_EPT_POINTER: _EPT_PML4 | lib.NV_VMX_EPT_POINTER,
        lib.NV_VMCS_HOST_CR0: sregs.cr0,
        lib.NV_VMCS_HOST_CR3: sregs.cr3,
        lib.NV_VMCS_HOST_CR4: sregs.cr4,
        lib.NV_VMCS_HOST_TR: _TASK,
        lib.NV_VMCS_HOST_TR_BASE: _TSS,
        lib.NV_VMCS_HOST_GDTR_BASE: _GDT,
        lib.NV_VMCS_HOST_RSP: _STACK,
        lib.NV_VMCS_HOST_EFER: LONG_MODE,
        lib.NV_VMCS_GUEST_CR0: sregs.cr0,
        lib.NV_VMCS_GUEST_CR3: PML4,
        lib.NV_VMCS_GUEST_CR4: _CR4_VMXE | 0x20,
        lib.NV_VMCS_GUEST_TR: _TASK,
        lib.NV_VMCS_GUEST_ES_BASE + tr: _TSS,
        lib.NV_VMCS_GUEST_ES_LIMIT + tr: 0x67,
        lib.NV_VMCS_GUEST_ES_RIGHTS + tr: 0x8B,
        lib.NV_VMCS_GUEST_ES_RIGHTS + ldtr: 0x10000,
        lib.NV_VMCS_GUEST_GDTR_LIMIT: 0x2F,
        lib.NV_VMCS_GUEST_GDTR_BASE: _GDT,
        lib.NV_VMCS_GUEST_DR7: 0x400,
        lib.NV_VMCS_GUEST_RSP: _STACK,
        lib.NV_VMCS_GUEST_RIP: GUEST,
        lib.NV_VMCS_GUEST_RFLAGS: 2,
        lib.NV_VMCS_GUEST_EFER: LONG_MODE,
    }
