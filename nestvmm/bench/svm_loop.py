"""The yardstick for a world switch: the least that a userspace process can do to run a guest by VMRUN.

A VM of one vCPU whose code is VMRUN and a doorbell in a loop. The nested guest does CPUID for ever; for each exit the
process moves the block's RIP behind it. Nothing is saved, looked up, counted or decoded.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from typing import Any, Final

from nestvmm._native import ffi, lib
from nestvmm.engines import SvmEngine
from nestvmm.errors import HostError
from nestvmm.kvm import HostMemory, Kvm, Regs, Segment

__all__ = ["SvmLoop"]

_RAM: Final = 2 << 20
_CODE, _GUEST = 0x1000, 0x2000
_PML4, _PDPT, _PD = 0x3000, 0x4000, 0x5000
_HOST_SAVE, _BLOCK, _IOPM, _MSRPM = 0x6000, 0x7000, 0x10000, 0x20000
_NESTED_PML4, _NESTED_PDPT = 0x8000, 0x9000
_TSS: Final = 0xFFFBD000
_DOORBELL: Final = 0x80
_MSR_HSAVE: Final = 0xC0010117

# again: mov rax, BLOCK; vmrun; out DOORBELL, eax; jmp again
_LOOP: Final = b"\x48\xc7\xc0" + struct.pack("<I", _BLOCK) + b"\x0f\x01\xd8" + bytes((0xE7, _DOORBELL)) + b"\xeb\xf2"
# again: xor eax, eax; cpuid; jmp again
_CPUIDS: Final = b"\x31\xc0\x0f\xa2\xeb\xfa"

_LONG_MODE: Final = 0x500
_SVME: Final = 0x1000


class SvmLoop:
    """The loop, ready to run; a context manager. Raises HostError where KVM does not nest."""

    def __init__(self, trips: int, shared: bool = False) -> None:
        self.trips = trips
        self._nested = _PML4 if shared else _NESTED_PML4
        self._open = ExitStack()
        try:
            self._build()
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> SvmLoop:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _build(self) -> None:
        kvm = self._open.enter_context(Kvm())
        cpuid = kvm.get_supported_cpuid()
        if not SvmEngine.offered(cpuid):
            raise HostError(f"the bare VMRUN loop needs {SvmEngine.needs}")
        vm = self._open.enter_context(kvm.create_vm())
        vm.set_tss_address(_TSS)
        memory = HostMemory(_RAM)
        self._open.callback(memory.close)
        vm.set_memory_region(0, 0, _RAM, memory.address)
        memory.write(_CODE, _LOOP)
        memory.write(_GUEST, _CPUIDS)
        memory.write(_PML4, struct.pack("<Q", _PDPT | 7))
        memory.write(_PDPT, struct.pack("<Q", _PD | 7))
        memory.write(_PD, struct.pack("<512Q", *(number << 21 | 0x87 for number in range(512))))
        # of their own: KVM write-protects nested page tables, and pays at each entry if the guest uses them, too
        memory.write(_NESTED_PML4, struct.pack("<Q", _NESTED_PDPT | 7))
        memory.write(_NESTED_PDPT, struct.pack("<Q", 0x87))
        self._block: Any = ffi.cast("struct nv_vmcb *", memory.address + _BLOCK)
        self._fill_block()
        self._vcpu = self._open.enter_context(vm.create_vcpu(0))
        self._vcpu.set_cpuid(cpuid)
        sregs = self._vcpu.get_sregs()
        sregs.cs = Segment(limit=0xFFFFFFFF, selector=8, type=11, present=1, s=1, l=1, g=1)
        data = Segment(limit=0xFFFFFFFF, selector=16, type=3, present=1, s=1, db=1, g=1)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80050033, _PML4, 0x620, _LONG_MODE | _SVME
        self._vcpu.set_sregs(sregs)
        self._vcpu.set_msrs({_MSR_HSAVE: _HOST_SAVE})
        self._vcpu.set_regs(Regs(rip=_CODE))

    def _fill_block(self) -> None:
        block = self._block
        # CPUID; VMRUN; and MSRs, for without that a guest could take EFER.SVME from its host
        for code in (0x72, 0x80, 0x7C):
            block.intercept[code // 32] |= 1 << code % 32
        block.iopm, block.msrpm, block.asid = _IOPM, _MSRPM, 1
        block.nested_paging, block.nested_cr3 = 1, self._nested
        for segment, attributes in ((block.cs, 0xA9B), *((one, 0xC93) for one in (block.ds, block.es, block.ss))):
            segment.limit, segment.attributes = 0xFFFFFFFF, attributes
        block.efer, block.cr4, block.cr3, block.cr0 = _LONG_MODE | _SVME, 0x20, _PML4, 0x80050033
        block.dr7, block.dr6, block.rflags, block.rip = 0x400, 0xFFFF0FF0, 2, _GUEST

    def batch(self) -> float:
        """TSC ticks of one round trip, averaged over a batch."""
        ticks = ffi.new("uint64_t *")
        status = lib.nv_bench_svm(self._vcpu.fd, self._vcpu.kvm_run, self._block, self.trips, ticks)
        if status < 0:
            raise HostError(f"the bare VMRUN loop failed: {os.strerror(-status)}")
        return int(ticks[0]) / self.trips
