"""The bare loop by VMRUN: for each exit the process moves the block's RIP behind the nested guest's CPUID."""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.bench.bare_loop import CODE, DOORBELL, GUEST, LONG_MODE, PML4, BareLoop
from nestvmm.engines import SvmEngine
from nestvmm.kvm import HostMemory, Sregs, Vcpu

__all__ = ["SvmLoop"]

_HOST_SAVE, _BLOCK, _IOPM, _MSRPM = 0x6000, 0x7000, 0x10000, 0x20000
_NESTED_PML4, _NESTED_PDPT = 0x8000, 0x9000
_MSR_HSAVE: Final = 0xC0010117
_SVME: Final = 0x1000

# again: mov rax, BLOCK; vmrun; out DOORBELL, eax; jmp again
_LOOP: Final = b"\x48\xc7\xc0" + struct.pack("<I", _BLOCK) + b"\x0f\x01\xd8" + bytes((0xE7, DOORBELL)) + b"\xeb\xf2"


class SvmLoop(BareLoop):
    """See BareLoop.

    shared:  the nested guest's addresses go through the page tables of its host
    """

    instruction: ClassVar[str] = "VMRUN"
    engine: ClassVar[type[SvmEngine]] = SvmEngine

    def __init__(self, trips: int, shared: bool = False) -> None:
        self._nested = PML4 if shared else _NESTED_PML4
        super().__init__(trips)

    def _prepare(self, vcpu: Vcpu, memory: HostMemory, sregs: Sregs) -> None:
        memory.write(CODE, _LOOP)
        # of their own: KVM write-protects nested page tables, and pays at each entry if the guest uses them, too
        memory.write(_NESTED_PML4, struct.pack("<Q", _NESTED_PDPT | 7))
        memory.write(_NESTED_PDPT, struct.pack("<Q", 0x87))
        self._block: Any = ffi.cast("struct nv_vmcb *", memory.address + _BLOCK)
        self._fill_block()
        sregs.efer |= _SVME
        vcpu.set_sregs(sregs)
        vcpu.set_msrs({_MSR_HSAVE: _HOST_SAVE})

    def _fill_block(self) -> None:
        block = self._block
        # CPUID; VMRUN; and MSRs, for without that a guest could take EFER.SVME from its host
        for code in (0x72, 0x80, 0x7C):
            block.intercept[code // 32] |= 1 << code % 32
        block.iopm, block.msrpm, block.asid = _IOPM, _MSRPM, 1
        block.nested_paging, block.nested_cr3 = 1, self._nested
        for segment, attributes in ((block.cs, 0xA9B), *((one, 0xC93) for one in (block.ds, block.es, block.ss))):
            segment.limit, segment.attributes = 0xFFFFFFFF, attributes
        block.efer, block.cr4, block.cr3, block.cr0 = LONG_MODE | _SVME, 0x20, PML4, 0x80050033
        block.dr7, block.dr6, block.rflags, block.rip = 0x400, 0xFFFF0FF0, 2, GUEST

    def _run(self, ticks: object) -> int:
        return int(lib.nv_bench_svm(self._vcpu.fd, self._vcpu.kvm_run, self._block, self.trips, ticks))
