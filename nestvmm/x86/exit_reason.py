"""The neutral exit reasons: one row each, and which engine can trap it.

`native/reason.h` gives the same numbers to C. A name here is what `--designate` and tower files take, in lower case
with hyphens: `ExitReason.EMULATION_FAILURE` is `emulation-failure`.
"""

from __future__ import annotations

from enum import Enum, IntEnum, unique
from typing import NamedTuple

__all__ = ["ARRIVING", "REASONS", "SPACED", "ExitReason", "Qualifier", "ReasonRow"]


@unique
class ExitReason(IntEnum):
    """Why level n stopped running, in terms that AMD's and Intel's manuals and KVM share."""

    # Enum's own is Python code, and every handled event is looked up by its reason
    __hash__ = int.__hash__

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
    STARTUP_IPI = 50
    PUSHF = 51
    POPF = 52
    RSM = 53
    ICEBP = 54
    RDPRU = 55
    MCOMMIT = 56
    INVLPGB = 57
    TLBSYNC = 58
    FERR_FREEZE = 59
    BUS_LOCK = 60
    WRITE_TRAP = 61
    INCOMPLETE_IPI = 62
    APIC_ACCESS = 63
    APIC_WRITE = 64
    TPR_THRESHOLD = 65
    PAGE_LOG_FULL = 66
    SUB_PAGE = 67
    GETSEC = 68
    XSAVES = 69
    XRSTORS = 70
    ENCLS = 71
    ENCLV = 72
    PCONFIG = 73
    UMWAIT = 74
    TPAUSE = 75
    LOADIWKEY = 76
    ENQCMD = 77
    RDMSRLIST = 78
    WRMSRLIST = 79
    TDX_INSTRUCTION = 80
    INSTRUCTION_TIMEOUT = 81

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
    CONTROL = "control register number"
    DEBUG = "debug register number"
    TABLE = "descriptor-table register: 0 GDTR, 1 IDTR, 2 LDTR, 3 TR"
    EXTENDED = "extended control register number"
    COUNTER = "counter number"
    SELECTOR = "TSS selector"
    OFFSET = "offset in the APIC's page"
    INSTRUCTION = "instruction bytes"
    CODE = "exit code"
    NUMBER = "number"


class ReasonRow(NamedTuple):
    """One exit reason: its qualifier, the engines that can trap it, and what it means.

    engines: none of them for a reason that processors have and that this version's engines never see; the tables of
             exit codes (svm_exits.py, vmx_exits.py) say why
    """

    qualifier: Qualifier
    engines: frozenset[str]
    meaning: str


#: Reasons of events that are one machine's alone: by its physical address, as it takes what comes from below, or as a
#: level of its own asked for them.
SPACED = frozenset(
    {
        ExitReason.MMIO,
        ExitReason.NESTED_PAGE_FAULT,
        ExitReason.INTERRUPT_WINDOW,
        ExitReason.NMI_WINDOW,
        ExitReason.INTERRUPT,
        ExitReason.NMI,
        ExitReason.PREEMPTION_TIMER,
    }
)

#: Those of what comes to a machine from below it.
ARRIVING = frozenset({ExitReason.INTERRUPT, ExitReason.NMI})

_ALL = frozenset({"direct", "svm", "vmx"})
_SWITCHER = frozenset({"svm", "vmx"})
_SVM = frozenset({"svm"})
_VMX = frozenset({"vmx"})
_NOBODY: frozenset[str] = frozenset()

REASONS: dict[ExitReason, ReasonRow] = {
    ExitReason.UNKNOWN: ReasonRow(Qualifier.CODE, _ALL, "an exit that this version does not know; the engine's code"),
    ExitReason.IO: ReasonRow(Qualifier.PORT, _ALL, "IN, OUT, INS, OUTS"),
    ExitReason.MMIO: ReasonRow(Qualifier.PHYSICAL, _ALL, "access to a physical address that no memory backs"),
    ExitReason.RDMSR: ReasonRow(Qualifier.MSR, _ALL, "RDMSR"),
    ExitReason.WRMSR: ReasonRow(Qualifier.MSR, _ALL, "WRMSR"),
    ExitReason.HLT: ReasonRow(Qualifier.NONE, _ALL, "HLT (direct: only without an in-kernel irqchip)"),
    ExitReason.DEBUG: ReasonRow(Qualifier.VECTOR, _ALL, "single step or breakpoint of KVM's guest debugging"),
    ExitReason.SHUTDOWN: ReasonRow(Qualifier.NONE, _ALL, "shutdown, such as a triple fault"),
    ExitReason.MEMORY_FAULT: ReasonRow(Qualifier.PHYSICAL, _ALL, "KVM could not reach the memory behind an address"),
    ExitReason.EMULATION_FAILURE: ReasonRow(
        Qualifier.INSTRUCTION, _ALL, "an instruction that the processor or KVM's emulator lacks"
    ),
    ExitReason.ENTRY_FAILURE: ReasonRow(Qualifier.CODE, _ALL, "the hardware refused level n's state"),
    ExitReason.INTERNAL_ERROR: ReasonRow(Qualifier.NUMBER, _ALL, "KVM gave up; its suberror"),
    ExitReason.HYPERCALL: ReasonRow(Qualifier.NUMBER, _SWITCHER, "VMCALL or VMMCALL; RAX"),
    ExitReason.SYSTEM_EVENT: ReasonRow(Qualifier.NUMBER, _ALL, "shutdown or reset asked of KVM"),
    ExitReason.INTERRUPT_WINDOW: ReasonRow(Qualifier.NONE, _ALL, "level n can take an interrupt"),
    ExitReason.EOI: ReasonRow(Qualifier.VECTOR, _ALL, "end of interrupt, with a split irqchip"),
    ExitReason.CPUID: ReasonRow(Qualifier.LEAF, _SWITCHER, "CPUID"),
    ExitReason.RDTSC: ReasonRow(Qualifier.NONE, _SWITCHER, "RDTSC"),
    ExitReason.RDTSCP: ReasonRow(Qualifier.NONE, _SWITCHER, "RDTSCP"),
    ExitReason.RDPMC: ReasonRow(Qualifier.COUNTER, _SWITCHER, "RDPMC"),
    ExitReason.PAUSE: ReasonRow(Qualifier.NONE, _SWITCHER, "PAUSE"),
    ExitReason.MONITOR: ReasonRow(Qualifier.NONE, _SWITCHER, "MONITOR"),
    ExitReason.MWAIT: ReasonRow(Qualifier.NONE, _SWITCHER, "MWAIT"),
    ExitReason.INVLPG: ReasonRow(Qualifier.NONE, _SWITCHER, "INVLPG"),
    ExitReason.INVPCID: ReasonRow(Qualifier.NONE, _SWITCHER, "INVPCID"),
    ExitReason.INVD: ReasonRow(Qualifier.NONE, _SWITCHER, "INVD"),
    ExitReason.WBINVD: ReasonRow(Qualifier.NONE, _SWITCHER, "WBINVD, WBNOINVD"),
    ExitReason.XSETBV: ReasonRow(Qualifier.EXTENDED, _SWITCHER, "XSETBV"),
    ExitReason.RDRAND: ReasonRow(Qualifier.NONE, _VMX, "RDRAND"),
    ExitReason.RDSEED: ReasonRow(Qualifier.NONE, _VMX, "RDSEED"),
    ExitReason.CR_READ: ReasonRow(Qualifier.CONTROL, _SWITCHER, "MOV from a control register, SMSW"),
    ExitReason.CR_WRITE: ReasonRow(Qualifier.CONTROL, _SWITCHER, "MOV to a control register, LMSW, CLTS"),
    ExitReason.DR_READ: ReasonRow(Qualifier.DEBUG, _SWITCHER, "MOV from a debug register"),
    ExitReason.DR_WRITE: ReasonRow(Qualifier.DEBUG, _SWITCHER, "MOV to a debug register"),
    ExitReason.DESCRIPTOR_TABLE: ReasonRow(
        Qualifier.TABLE, _SWITCHER, "SGDT, SIDT, SLDT, STR (reads), LGDT, LIDT, LLDT, LTR (writes)"
    ),
    ExitReason.EXCEPTION: ReasonRow(Qualifier.VECTOR, _SWITCHER, "exception"),
    ExitReason.SOFTWARE_INTERRUPT: ReasonRow(Qualifier.VECTOR, _SVM, "INTn"),
    ExitReason.IRET: ReasonRow(Qualifier.NONE, _SVM, "IRET"),
    ExitReason.INTERRUPT: ReasonRow(Qualifier.NONE, _SWITCHER, "an external interrupt is pending"),
    ExitReason.NMI: ReasonRow(Qualifier.NONE, _SWITCHER, "non-maskable interrupt"),
    ExitReason.NMI_WINDOW: ReasonRow(Qualifier.NONE, _SWITCHER, "level n can take an NMI"),
    ExitReason.SMI: ReasonRow(Qualifier.NONE, _SVM, "system-management interrupt"),
    ExitReason.INIT: ReasonRow(Qualifier.NONE, _SWITCHER, "INIT"),
    ExitReason.TASK_SWITCH: ReasonRow(Qualifier.SELECTOR, _SWITCHER, "hardware task switch"),
    ExitReason.NESTED_PAGE_FAULT: ReasonRow(Qualifier.PHYSICAL, _SWITCHER, "nested page fault, EPT violation"),
    ExitReason.NESTED_MISCONFIGURATION: ReasonRow(Qualifier.PHYSICAL, _VMX, "EPT misconfiguration"),
    ExitReason.SVM_INSTRUCTION: ReasonRow(Qualifier.CODE, _SVM, "VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA"),
    ExitReason.VMX_INSTRUCTION: ReasonRow(Qualifier.CODE, _VMX, "VMXON ... INVVPID"),
    ExitReason.PREEMPTION_TIMER: ReasonRow(Qualifier.NONE, _VMX, "VMX-preemption timer"),
    ExitReason.MONITOR_TRAP: ReasonRow(Qualifier.NONE, _VMX, "monitor trap flag"),
    ExitReason.STARTUP_IPI: ReasonRow(Qualifier.VECTOR, _NOBODY, "start-up interprocessor interrupt"),
    ExitReason.PUSHF: ReasonRow(Qualifier.NONE, _SVM, "PUSHF"),
    ExitReason.POPF: ReasonRow(Qualifier.NONE, _SVM, "POPF"),
    ExitReason.RSM: ReasonRow(Qualifier.NONE, _NOBODY, "RSM"),
    ExitReason.ICEBP: ReasonRow(Qualifier.NONE, _SVM, "INT1"),
    ExitReason.RDPRU: ReasonRow(Qualifier.COUNTER, _SVM, "RDPRU"),
    ExitReason.MCOMMIT: ReasonRow(Qualifier.NONE, _NOBODY, "MCOMMIT"),
    ExitReason.INVLPGB: ReasonRow(Qualifier.NONE, _NOBODY, "INVLPGB"),
    ExitReason.TLBSYNC: ReasonRow(Qualifier.NONE, _NOBODY, "TLBSYNC"),
    ExitReason.FERR_FREEZE: ReasonRow(Qualifier.NONE, _NOBODY, "an x87 error waits for the FERR interrupt"),
    ExitReason.BUS_LOCK: ReasonRow(Qualifier.NONE, _NOBODY, "a locked access took the bus"),
    ExitReason.WRITE_TRAP: ReasonRow(
        Qualifier.NUMBER, _NOBODY, "behind a write of a control register (its number) or of EFER (0xc0000080)"
    ),
    ExitReason.INCOMPLETE_IPI: ReasonRow(
        Qualifier.NONE, _NOBODY, "an interprocessor interrupt that the virtual APIC cannot deliver"
    ),
    ExitReason.APIC_ACCESS: ReasonRow(Qualifier.OFFSET, _NOBODY, "access to the virtual APIC's page"),
    ExitReason.APIC_WRITE: ReasonRow(Qualifier.OFFSET, _NOBODY, "behind a write of a virtual APIC's register"),
    ExitReason.TPR_THRESHOLD: ReasonRow(Qualifier.NONE, _NOBODY, "the virtual task priority fell below its threshold"),
    ExitReason.PAGE_LOG_FULL: ReasonRow(Qualifier.NONE, _NOBODY, "the log of written pages is full"),
    ExitReason.SUB_PAGE: ReasonRow(Qualifier.PHYSICAL, _NOBODY, "sub-page permissions: miss or misconfiguration"),
    ExitReason.GETSEC: ReasonRow(Qualifier.NONE, _NOBODY, "GETSEC"),
    ExitReason.XSAVES: ReasonRow(Qualifier.NONE, _NOBODY, "XSAVES"),
    ExitReason.XRSTORS: ReasonRow(Qualifier.NONE, _NOBODY, "XRSTORS"),
    ExitReason.ENCLS: ReasonRow(Qualifier.NUMBER, _VMX, "ENCLS; its leaf"),
    ExitReason.ENCLV: ReasonRow(Qualifier.NUMBER, _NOBODY, "ENCLV; its leaf"),
    ExitReason.PCONFIG: ReasonRow(Qualifier.NUMBER, _NOBODY, "PCONFIG; its leaf"),
    ExitReason.UMWAIT: ReasonRow(Qualifier.NONE, _VMX, "UMWAIT"),
    ExitReason.TPAUSE: ReasonRow(Qualifier.NONE, _VMX, "TPAUSE"),
    ExitReason.LOADIWKEY: ReasonRow(Qualifier.NONE, _NOBODY, "LOADIWKEY"),
    ExitReason.ENQCMD: ReasonRow(Qualifier.NONE, _NOBODY, "ENQCMD, ENQCMDS: no translation of the PASID"),
    ExitReason.RDMSRLIST: ReasonRow(Qualifier.NONE, _NOBODY, "RDMSRLIST"),
    ExitReason.WRMSRLIST: ReasonRow(Qualifier.NONE, _NOBODY, "WRMSRLIST"),
    ExitReason.TDX_INSTRUCTION: ReasonRow(Qualifier.CODE, _NOBODY, "SEAMCALL, TDCALL"),
    ExitReason.INSTRUCTION_TIMEOUT: ReasonRow(
        Qualifier.NONE, _NOBODY, "no instruction boundary within the notify window"
    ),
}
