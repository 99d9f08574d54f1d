"""The neutral exit reasons: one row each, and which engine can trap it.

`native/reason.h` gives the same numbers to C. A name here is what `--designate` and tower files take, in lower case
with hyphens: `ExitReason.EMULATION_FAILURE` is `emulation-failure`.
"""

from __future__ import annotations

from enum import Enum, IntEnum, unique
from typing import NamedTuple

__all__ = ["REASONS", "ExitReason", "Qualifier", "ReasonRow"]


@unique
class ExitReason(IntEnum):
    """Why level n stopped running, in terms that AMD's and Intel's manuals and KVM share."""

    UNKNOWN = 0
    IO = 1
    MMIO = 2
    RDMSR = 3
    WRMSR = 4
    HLT = 5
    DEBUG = 6
    SHUTDOWN = 7
    MEMORY_FAULT = 8
    EMULATION_FAILURE = 9
    ENTRY_FAILURE = 10
    INTERNAL_ERROR = 11
    HYPERCALL = 12
    SYSTEM_EVENT = 13
    INTERRUPT_WINDOW = 14
    EOI = 15
    CPUID = 16
    RDTSC = 17
    RDTSCP = 18
    RDPMC = 19
    PAUSE = 20
    MONITOR = 21
    MWAIT = 22
    INVLPG = 23
    INVPCID = 24
    INVD = 25
    WBINVD = 26
    XSETBV = 27
    RDRAND = 28
    RDSEED = 29
    CR_READ = 30
    CR_WRITE = 31
    DR_READ = 32
    DR_WRITE = 33
    DESCRIPTOR_TABLE = 34
    EXCEPTION = 35
    SOFTWARE_INTERRUPT = 36
    IRET = 37
    INTERRUPT = 38
    NMI = 39
    NMI_WINDOW = 40
    SMI = 41
    INIT = 42
    TASK_SWITCH = 43
    NESTED_PAGE_FAULT = 44
    NESTED_MISCONFIGURATION = 45
    SVM_INSTRUCTION = 46
    VMX_INSTRUCTION = 47
    PREEMPTION_TIMER = 48
    MONITOR_TRAP = 49

    @property
    def label(self) -> str:
        """The name that options, tower files and reports use, such as `emulation-failure`."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def from_label(cls, label: str) -> ExitReason:
        """The reason of a label; raises KeyError."""
        return cls[label.upper().replace("-", "_")]


@unique
class Qualifier(Enum):
    """What an event's qualifier is; its value names it in messages."""

    NONE = "nothing"
    PORT = "port"
    MSR = "MSR index"
    PHYSICAL = "guest-physical address"
    VECTOR = "vector"
    LEAF = "CPUID leaf"
    REGISTER = "register number"
    INSTRUCTION = "instruction bytes"
    NUMBER = "number"


class ReasonRow(NamedTuple):
    """One exit reason: its qualifier, the engines that can trap it, and what it means."""

    qualifier: Qualifier
    engines: frozenset[str]
    meaning: str


_ALL = frozenset({"direct", "svm", "vmx"})
_SWITCHER = frozenset({"svm", "vmx"})
_SVM = frozenset({"svm"})
_VMX = frozenset({"vmx"})
_DIRECT = frozenset({"direct"})

REASONS: dict[ExitReason, ReasonRow] = {
    ExitReason.UNKNOWN: ReasonRow(Qualifier.NUMBER, _ALL, "an exit that this version does not know; the engine's code"),
    ExitReason.IO: ReasonRow(Qualifier.PORT, _ALL, "IN, OUT, INS, OUTS"),
    ExitReason.MMIO: ReasonRow(Qualifier.PHYSICAL, _ALL, "access to a physical address that no memory backs"),
    ExitReason.RDMSR: ReasonRow(Qualifier.MSR, _ALL, "RDMSR"),
    ExitReason.WRMSR: ReasonRow(Qualifier.MSR, _ALL, "WRMSR"),
    ExitReason.HLT: ReasonRow(Qualifier.NONE, _ALL, "HLT (direct: only without an in-kernel irqchip)"),
    ExitReason.DEBUG: ReasonRow(Qualifier.VECTOR, _ALL, "single step or breakpoint of KVM's guest debugging"),
    ExitReason.SHUTDOWN: ReasonRow(Qualifier.NONE, _ALL, "shutdown, such as a triple fault"),
    ExitReason.MEMORY_FAULT: ReasonRow(Qualifier.PHYSICAL, _ALL, "KVM could not reach the memory behind an address"),
    ExitReason.EMULATION_FAILURE: ReasonRow(Qualifier.INSTRUCTION, _ALL, "an instruction that KVM failed to emulate"),
    ExitReason.ENTRY_FAILURE: ReasonRow(Qualifier.NONE, _ALL, "the hardware refused level n's state"),
    ExitReason.INTERNAL_ERROR: ReasonRow(Qualifier.NUMBER, _ALL, "KVM gave up; its suberror"),
    ExitReason.HYPERCALL: ReasonRow(Qualifier.NUMBER, _SWITCHER, "VMCALL or VMMCALL"),
    ExitReason.SYSTEM_EVENT: ReasonRow(Qualifier.NUMBER, _ALL, "shutdown or reset asked of KVM"),
    ExitReason.INTERRUPT_WINDOW: ReasonRow(Qualifier.NONE, _ALL, "level n can take an interrupt"),
    ExitReason.EOI: ReasonRow(Qualifier.VECTOR, _ALL, "end of interrupt, with a split irqchip"),
    ExitReason.CPUID: ReasonRow(Qualifier.LEAF, _SWITCHER, "CPUID"),
    ExitReason.RDTSC: ReasonRow(Qualifier.NONE, _SWITCHER, "RDTSC"),
    ExitReason.RDTSCP: ReasonRow(Qualifier.NONE, _SWITCHER, "RDTSCP"),
    ExitReason.RDPMC: ReasonRow(Qualifier.NUMBER, _SWITCHER, "RDPMC"),
    ExitReason.PAUSE: ReasonRow(Qualifier.NONE, _SWITCHER, "PAUSE"),
    ExitReason.MONITOR: ReasonRow(Qualifier.NONE, _SWITCHER, "MONITOR"),
    ExitReason.MWAIT: ReasonRow(Qualifier.NONE, _SWITCHER, "MWAIT"),
    ExitReason.INVLPG: ReasonRow(Qualifier.NONE, _SWITCHER, "INVLPG"),
    ExitReason.INVPCID: ReasonRow(Qualifier.NONE, _SWITCHER, "INVPCID"),
    ExitReason.INVD: ReasonRow(Qualifier.NONE, _SWITCHER, "INVD"),
    ExitReason.WBINVD: ReasonRow(Qualifier.NONE, _SWITCHER, "WBINVD, WBNOINVD"),
    ExitReason.XSETBV: ReasonRow(Qualifier.REGISTER, _SWITCHER, "XSETBV"),
    ExitReason.RDRAND: ReasonRow(Qualifier.NONE, _VMX, "RDRAND"),
    ExitReason.RDSEED: ReasonRow(Qualifier.NONE, _VMX, "RDSEED"),
    ExitReason.CR_READ: ReasonRow(Qualifier.REGISTER, _SWITCHER, "MOV from a control register, SMSW"),
    ExitReason.CR_WRITE: ReasonRow(Qualifier.REGISTER, _SWITCHER, "MOV to a control register, LMSW, CLTS"),
    ExitReason.DR_READ: ReasonRow(Qualifier.REGISTER, _SWITCHER, "MOV from a debug register"),
    ExitReason.DR_WRITE: ReasonRow(Qualifier.REGISTER, _SWITCHER, "MOV to a debug register"),
    ExitReason.DESCRIPTOR_TABLE: ReasonRow(Qualifier.REGISTER, _SWITCHER, "GDTR, IDTR, LDTR or TR read or written"),
    ExitReason.EXCEPTION: ReasonRow(Qualifier.VECTOR, _SWITCHER, "exception"),
    ExitReason.SOFTWARE_INTERRUPT: ReasonRow(Qualifier.VECTOR, _SVM, "INTn"),
    ExitReason.IRET: ReasonRow(Qualifier.NONE, _SVM, "IRET"),
    ExitReason.INTERRUPT: ReasonRow(Qualifier.VECTOR, _SWITCHER, "external interrupt"),
    ExitReason.NMI: ReasonRow(Qualifier.NONE, _SWITCHER, "non-maskable interrupt"),
    ExitReason.NMI_WINDOW: ReasonRow(Qualifier.NONE, _SWITCHER, "level n can take an NMI"),
    ExitReason.SMI: ReasonRow(Qualifier.NONE, _SWITCHER, "system-management interrupt"),
    ExitReason.INIT: ReasonRow(Qualifier.NONE, _SWITCHER, "INIT"),
    ExitReason.TASK_SWITCH: ReasonRow(Qualifier.NONE, _SWITCHER, "hardware task switch"),
    ExitReason.NESTED_PAGE_FAULT: ReasonRow(Qualifier.PHYSICAL, _SWITCHER, "nested page fault, EPT violation"),
    ExitReason.NESTED_MISCONFIGURATION: ReasonRow(Qualifier.PHYSICAL, _VMX, "EPT misconfiguration"),
    ExitReason.SVM_INSTRUCTION: ReasonRow(Qualifier.NUMBER, _SVM, "VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA"),
    ExitReason.VMX_INSTRUCTION: ReasonRow(Qualifier.NUMBER, _VMX, "VMXON ... INVVPID"),
    ExitReason.PREEMPTION_TIMER: ReasonRow(Qualifier.NONE, _VMX, "VMX-preemption timer"),
    ExitReason.MONITOR_TRAP: ReasonRow(Qualifier.NONE, _VMX, "monitor trap flag"),
}
