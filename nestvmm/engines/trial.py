"""Finds out what becomes of instructions at the KVM at hand, by running each one: CPUID alone does not tell.

KVM-PVM interprets CPL 0 and runs CPL 3 natively, so an instruction may do at one and not at the other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum

from nestvmm.kvm import CpuidEntry, DescriptorTable, HostMemory, InternalErrorExit, IoExit, Kvm, Regs, Sregs, Vcpu
from nestvmm.x86.state import CODE_SELECTOR, LONG_MODE_GDT, Entry, enter

__all__ = ["Trial", "try_instructions"]

_PML4, _PDPT, _PD, _GDT, _CODE, _DATA, _SIZE = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x8000
_TSS, _IDT, _HANDLER = 0x4100, 0x4200, 0x4F00
_UD = 6
_OUT = b"\xe6\x80"
_OUT_UNDEFINED = b"\xe6\x81"
_UNDEFINED_PORT = 0x81
_IOPL_3 = 3 << 12
_RSP0 = 4  # in a 64-bit TSS (AMD APM vol. 2, 12.2.5)
_EMULATION = 1


class Trial(Enum):
    """What an instruction does in a guest of this KVM."""

    RUNS = "runs"
    HANDED_OVER = "is handed over"
    UNDEFINED = "raises #UD"
    FAULTS = "raises another exception"


def try_instructions(kvm: Kvm, codes: Sequence[bytes], entries: Sequence[CpuidEntry]) -> list[tuple[Trial, Trial]]:
    """What each instruction does at CPL 0 and at CPL 3 of a 64-bit guest whose CPUID is `entries`.

    RAX points at readable and writable memory. An instruction must neither jump nor change RSP.
    """
    with kvm.create_vm() as vm, HostMemory(_SIZE) as memory:
        vm.set_memory_region(0, 0, _SIZE, memory.address)
        for table, entry in ((_PML4, _PDPT | 7), (_PDPT, _PD | 7), (_PD, 0x87)):
            memory.write(table, entry.to_bytes(8, "little"))
        memory.write(_GDT, LONG_MODE_GDT)
        # of the IDT only #UD is present: any other exception ends in a shutdown
        memory.write(_HANDLER, _OUT_UNDEFINED)
        gate = struct.pack("<HHHHQ", _HANDLER, CODE_SELECTOR, 0x8E00, 0, 0)
        memory.write(_IDT, bytes(len(gate) * _UD) + gate)
        memory.write(_TSS + _RSP0, _SIZE.to_bytes(8, "little"))
        with vm.create_vcpu() as vcpu:
            vcpu.set_cpuid(entries)
            regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
            found = []
            for code in codes:
                memory.write(_CODE, code + _OUT)
                found.append((_try(vcpu, regs, sregs, 0), _try(vcpu, regs, sregs, 3)))
            return found


def _try(vcpu: Vcpu, regs: Regs, sregs: Sregs, cpl: int) -> Trial:
    enter(
        Entry("long", _CODE, rsp=_SIZE, rax=_DATA, cr3=_PML4, gdt_base=_GDT, gdt_limit=len(LONG_MODE_GDT) - 1),
        regs,
        sregs,
    )
    sregs.idt = DescriptorTable(_IDT, 16 * (_UD + 1) - 1)
    sregs.tr.base = _TSS
    if cpl:
        regs.rflags |= _IOPL_3
        for segment in (sregs.cs, sregs.ss):
            segment.dpl = cpl
            segment.selector |= cpl
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    exit_ = vcpu.run()
    if isinstance(exit_, IoExit):
        return Trial.UNDEFINED if exit_.port == _UNDEFINED_PORT else Trial.RUNS
    if isinstance(exit_, InternalErrorExit) and exit_.suberror == _EMULATION and exit_.instruction:
        return Trial.HANDED_OVER
    return Trial.FAULTS
