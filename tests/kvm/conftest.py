"""A real-mode guest of a few bytes on the host's KVM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from nestvmm.kvm import HostMemory, Kvm, Regs, Segment, Vcpu, Vm

CODE = 0x1000
RAM = 0x10000


class Guest:
    """64 KiB of memory at 0, one vCPU in real mode with all segments 0 and RIP at CODE."""

    def __init__(self, kvm: Kvm, stack: ExitStack, code: str, irqchip: bool = False) -> None:
        self.vm: Vm = stack.enter_context(kvm.create_vm())
        if irqchip:
            self.vm.create_irqchip()
        self.memory = stack.enter_context(HostMemory(RAM))
        self.vm.set_memory_region(0, 0, RAM, self.memory.address)
        self.vcpu: Vcpu = stack.enter_context(self.vm.create_vcpu())
        self.memory.write(CODE, bytes.fromhex(code))
        sregs = self.vcpu.get_sregs()
        for segment in (sregs.cs, sregs.ds, sregs.es, sregs.ss):
            segment.base = segment.selector = 0
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_regs(Regs(rip=CODE, rsp=0x800))

    def enter_long_mode(self) -> None:
        """64-bit mode with the first 2 MiB mapped where they are, tables at 0x4000 to 0x6fff; no IDT."""
        for table, entry in ((0x4000, 0x5007), (0x5000, 0x6007), (0x6000, 0x87)):
            self.memory.write(table, entry.to_bytes(8, "little"))
        sregs = self.vcpu.get_sregs()
        sregs.cr3, sregs.cr4, sregs.efer = 0x4000, 0x20, 0x500  # PAE; LMA and LME
        sregs.cr0 = 0x80000031  # PG, NE, ET, PE
        data = Segment(limit=0xFFFFFFFF, selector=0x18, type=3, present=1, db=1, s=1, g=1)
        sregs.cs = Segment(limit=0xFFFFFFFF, selector=0x10, type=11, present=1, s=1, l=1, g=1)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        sregs.tr = Segment(limit=0x67, selector=0x20, type=11, present=1)
        sregs.ldt = Segment(unusable=1)
        sregs.idt.limit = 0
        self.vcpu.set_sregs(sregs)


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with Kvm() as opened:
        yield opened


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    with kvm.create_vm() as made:
        yield made


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    with vm.create_vcpu() as made:
        yield made


@pytest.fixture
def guest(kvm: Kvm) -> Iterator[Callable[..., Guest]]:
    """guest("f4") or guest("f4", irqchip=True): a guest with this code."""
    with ExitStack() as stack:
        yield lambda code, **options: Guest(kvm, stack, code, **options)
