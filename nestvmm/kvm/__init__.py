"""/dev/kvm from Python: a thin layer, usable alone.

    Kvm      system.py    /dev/kvm: capabilities, CPUID and MSR lists          makes a Vm
    Vm       vm.py        memory slots, irqchip, timers, MSR filter            makes a Vcpu
    Vcpu     vcpu.py      run, registers, events, debugging

    exits.py     why a run ended: a type per KVM_EXIT_*          replies.py   the answers that exits await
    structs.py   registers and other states as plain values      record.py    how those value classes are made
    memory.py    memory to give a guest                          stats.py     KVM's binary statistics
    ioctls.py    every ioctl and the capability that it needs    caps.py      capabilities
    handle.py    what Kvm, Vm and Vcpu share                     errors.py    KvmError
    cpuid.py debug.py irq.py msrs.py nested.py                   the parts of single ioctls

Each method makes one ioctl and decides nothing. A guest that adds two numbers and writes the sum to port 0x80:

    from nestvmm.kvm import HostMemory, IoExit, Kvm, Regs

    with Kvm() as kvm, kvm.create_vm() as vm, HostMemory(0x1000) as memory, vm.create_vcpu() as vcpu:
        memory.write(0, bytes.fromhex("00d8 e680 f4"))  # add al, bl; out 0x80, al; hlt
        vm.set_memory_region(0, 0x1000, memory.size, memory.address)
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(Regs(rip=0x1000, rax=2, rbx=3))
        while isinstance(exit := vcpu.run(), IoExit):
            print(f"port {exit.port:#x}: {exit.data[0]}")
        print(exit)

prints `port 0x80: 5` and `HltExit()`.
"""

from nestvmm.kvm.caps import Cap
from nestvmm.kvm.debug import BREAK_ACCESS, BREAK_EXECUTE, BREAK_WRITE, Breakpoint
from nestvmm.kvm.errors import KvmError
from nestvmm.kvm.exits import (
    ApResetHoldExit,
    BusLockExit,
    DebugExit,
    DirtyRingFullExit,
    ExceptionExit,
    Exit,
    FailEntryExit,
    HltExit,
    HypercallExit,
    HypervHypercallExit,
    HypervSyndbgExit,
    HypervSynicExit,
    InternalErrorExit,
    InterruptedExit,
    IoapicEoiExit,
    IoExit,
    IrqWindowOpenExit,
    MemoryFaultExit,
    MmioExit,
    NmiExit,
    NotifyExit,
    RdmsrExit,
    SetTprExit,
    ShutdownExit,
    SystemEventExit,
    TdxExit,
    TprAccessExit,
    UnknownExit,
    UnknownHardwareExit,
    WrmsrExit,
    XenHypercallExit,
)
from nestvmm.kvm.irq import IrqchipRoute, MsiRoute
from nestvmm.kvm.memory import HostMemory
from nestvmm.kvm.msrs import MsrFilterRange
from nestvmm.kvm.stats import StatDescriptor, Stats, StatsHeader
from nestvmm.kvm.structs import (
    ClockData,
    CpuidEntry,
    DebugRegs,
    DescriptorTable,
    ExceptionEvent,
    Fpu,
    InterruptEvent,
    IoapicState,
    MpState,
    NestedState,
    NmiEvent,
    PicState,
    PitChannel,
    PitState,
    Redirection,
    Regs,
    Segment,
    SmiEvent,
    Sregs,
    Translation,
    TripleFaultEvent,
    VcpuEvents,
)
from nestvmm.kvm.system import Kvm
from nestvmm.kvm.vcpu import Vcpu
from nestvmm.kvm.vm import IOAPIC, PIC_MASTER, PIC_SLAVE, Vm

__all__ = [
    "BREAK_ACCESS",
    "BREAK_EXECUTE",
    "BREAK_WRITE",
    "IOAPIC",
    "PIC_MASTER",
    "PIC_SLAVE",
    "ApResetHoldExit",
    "Breakpoint",
    "BusLockExit",
    "Cap",
    "ClockData",
    "CpuidEntry",
    "DebugExit",
    "DebugRegs",
    "DescriptorTable",
    "DirtyRingFullExit",
    "ExceptionEvent",
    "ExceptionExit",
    "Exit",
    "FailEntryExit",
    "Fpu",
    "HltExit",
    "HostMemory",
    "HypercallExit",
    "HypervHypercallExit",
    "HypervSyndbgExit",
    "HypervSynicExit",
    "InternalErrorExit",
    "InterruptEvent",
    "InterruptedExit",
    "IoExit",
    "IoapicEoiExit",
    "IoapicState",
    "IrqWindowOpenExit",
    "IrqchipRoute",
    "Kvm",
    "KvmError",
    "MemoryFaultExit",
    "MmioExit",
    "MpState",
    "MsiRoute",
    "MsrFilterRange",
    "NestedState",
    "NmiEvent",
    "NmiExit",
    "NotifyExit",
    "PicState",
    "PitChannel",
    "PitState",
    "RdmsrExit",
    "Redirection",
    "Regs",
    "Segment",
    "SetTprExit",
    "ShutdownExit",
    "SmiEvent",
    "Sregs",
    "StatDescriptor",
    "Stats",
    "StatsHeader",
    "SystemEventExit",
    "TdxExit",
    "TprAccessExit",
    "Translation",
    "TripleFaultEvent",
    "UnknownExit",
    "UnknownHardwareExit",
    "Vcpu",
    "VcpuEvents",
    "Vm",
    "WrmsrExit",
    "XenHypercallExit",
]
