"""The yardsticks for a world switch: the least that a userspace process can do to run a guest by VMRUN or VMRESUME.

A VM of one vCPU whose code enters a nested guest and rings a doorbell, in a loop. The nested guest does CPUID for
ever. Nothing is saved, looked up, counted or decoded.
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import ClassVar, Final, Self

from nestvmm._native import ffi
from nestvmm.bench.python_loop import python_loop
from nestvmm.engines import SvmEngine, VmxEngine
from nestvmm.errors import HostError
from nestvmm.kvm import HostMemory, Kvm, Regs, Segment, Sregs, Vcpu

__all__ = ["CODE", "DOORBELL", "GUEST", "LONG_MODE", "PML4", "BareLoop"]

_RAM: Final = 2 << 20
#: Where its code is, and the nested guest's; and the page tables that both may use.
CODE, GUEST, PML4 = 0x1000, 0x2000, 0x3000
_PDPT, _PD = 0x4000, 0x5000
_TSS: Final = 0xFFFBD000
#: The port that it rings.
DOORBELL: Final = 0x80
#: EFER of 64-bit code.
LONG_MODE: Final = 0x500
_CR0, _CR4 = 0x80050033, 0x620

# again: xor eax, eax; cpuid; jmp again
_CPUIDS: Final = b"\x31\xc0\x0f\xa2\xeb\xfa"


class BareLoop(ABC):
    """The loop, ready to run; a context manager.

    instruction:  what it enters the nested guest by
    engine:       the one that does likewise

    Raises HostError where KVM does not nest.
    """

    instruction: ClassVar[str]
    engine: ClassVar[type[SvmEngine | VmxEngine]]

    def __init__(self, trips: int) -> None:
        self.trips = trips
        self._open = ExitStack()
        with self._open as opened:  # and closed again, when the rest cannot be opened
            self._build()
            self._open = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    @abstractmethod
    def _prepare(self, vcpu: Vcpu, memory: HostMemory, sregs: Sregs) -> None:
        """Writes the code and what it needs; changes the registers that it starts with."""

    @abstractmethod
    def _run(self, ticks: object) -> int:
        """So many round trips; a negative errno, and the ticks that they took."""

    def _build(self) -> None:
        kvm = self._open.enter_context(Kvm())
        cpuid = kvm.get_supported_cpuid()
        if not self.engine.offered(cpuid):
            raise HostError(f"the bare {self.instruction} loop needs {self.engine.needs}")
        vm = self._open.enter_context(kvm.create_vm())
        vm.set_tss_address(_TSS)
        memory = HostMemory(_RAM)
        self._open.callback(memory.close)
        vm.set_memory_region(0, 0, _RAM, memory.address)
        memory.write(GUEST, _CPUIDS)
        memory.write(PML4, struct.pack("<Q", _PDPT | 7))
        memory.write(_PDPT, struct.pack("<Q", _PD | 7))
        memory.write(_PD, struct.pack("<512Q", *(number << 21 | 0x87 for number in range(512))))
        self._vcpu = self._open.enter_context(vm.create_vcpu(0))
        self._vcpu.set_cpuid(cpuid)
        sregs = self._vcpu.get_sregs()
        sregs.cs = Segment(limit=0xFFFFFFFF, selector=8, type=11, present=1, s=1, l=1, g=1)
        data = Segment(limit=0xFFFFFFFF, selector=16, type=3, present=1, s=1, db=1, g=1)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0, PML4, _CR4, LONG_MODE
        self._vcpu.set_regs(Regs(rip=CODE))
        self._prepare(self._vcpu, memory, sregs)

    def batch(self) -> float:
        """TSC ticks of one round trip, averaged over a batch."""
        ticks = ffi.new("uint64_t *")
        status = self._run(ticks)
        if status < 0:
            raise HostError(f"the bare {self.instruction} loop failed: {os.strerror(-status)}")
        return int(ticks[0]) / self.trips

    def python_batch(self) -> float:
        """The same by a loop in Python."""
        return python_loop(self._vcpu.fd, self._vcpu.kvm_run, self.trips) / self.trips
