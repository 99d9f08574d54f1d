"""Every basic exit reason of VMX: Intel SDM vol. 3, appendix C; controls: 24.6.

Fields: "pin", "primary", "secondary" and "tertiary" are the VM-execution controls of these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.exit_row import (
    EVENT,
    L0,
    MACHINE,
    NEVER,
    PENDING,
    READ,
    WRITE,
    ExitRow,
    Source,
    exit_row,
)

__all__ = ["VMX_EXITS"]


# Why.
_WAITS: Final = "a level that has one to give waits for it"
_DUAL: Final = "KVM has no dual-monitor treatment of SMM"
_APIC: Final = "APIC virtualization stays off: KVM's own APIC is level n's"
_NOT_NESTED: Final = "KVM's nesting does not offer the control"
_STATE: Final = "the state that L0 built was refused"
_MAP: Final = "level n reached for what its map does not give it"

_VMX, _CODE = ExitReason.VMX_INSTRUCTION, Source.CODE


_ROWS: Final = (
    exit_row(
        *(0, "exception or NMI", (ExitReason.EXCEPTION, ExitReason.NMI), Source.VECTOR),
        why=f"{EVENT}; L0 always intercepts NMIs, to stop level n at any time",
        by=("exception bitmap", ("pin", 3)),
    ),
    exit_row(1, "external interrupt", ExitReason.INTERRUPT, why=PENDING, by=(("pin", 0),)),
    exit_row(2, "triple fault", ExitReason.SHUTDOWN, why=MACHINE),
    exit_row(3, "INIT signal", ExitReason.INIT, why="the processor drops it; a level can reset level n"),
    exit_row(
        *(4, "start-up IPI", ExitReason.STARTUP_IPI, Source.VECTOR),
        *(0, "level n is never put into the state that waits for it", NEVER),
    ),
    exit_row(5, "I/O SMI", ExitReason.SMI, why=_DUAL, handlers=NEVER),
    exit_row(6, "other SMI", ExitReason.SMI, why=_DUAL, handlers=NEVER),
    exit_row(7, "interrupt window", ExitReason.INTERRUPT_WINDOW, why=_WAITS, by=(("primary", 2),)),
    exit_row(8, "NMI window", ExitReason.NMI_WINDOW, why=_WAITS, by=(("primary", 22),)),
    exit_row(9, "task switch", ExitReason.TASK_SWITCH, Source.SELECTOR, why=EVENT),
    exit_row(10, "CPUID", ExitReason.CPUID, Source.EAX, 2),
    exit_row(11, "GETSEC", ExitReason.GETSEC, length=2, why="KVM's guests cannot set CR4.SMXE: #UD", handlers=NEVER),
    exit_row(12, "HLT", ExitReason.HLT, length=1, by=(("primary", 7),)),
    exit_row(13, "INVD", ExitReason.INVD, length=2),
    exit_row(14, "INVLPG", ExitReason.INVLPG, length=3, by=(("primary", 9),)),
    exit_row(15, "RDPMC", ExitReason.RDPMC, Source.ECX, 2, by=(("primary", 11),)),
    exit_row(16, "RDTSC", ExitReason.RDTSC, length=2, by=(("primary", 12),)),
    exit_row(17, "RSM", ExitReason.RSM, length=2, why=_DUAL, handlers=NEVER),
    exit_row(18, "VMCALL", ExitReason.HYPERCALL, Source.RAX, 3),
    exit_row(19, "VMCLEAR", _VMX, _CODE, 4),
    exit_row(20, "VMLAUNCH", _VMX, _CODE, 3),
    exit_row(21, "VMPTRLD", _VMX, _CODE, 3),
    exit_row(22, "VMPTRST", _VMX, _CODE, 3),
    exit_row(23, "VMREAD", _VMX, _CODE, 3),
    exit_row(24, "VMRESUME", _VMX, _CODE, 3),
    exit_row(25, "VMWRITE", _VMX, _CODE, 3),
    exit_row(26, "VMXOFF", _VMX, _CODE, 3),
    exit_row(27, "VMXON", _VMX, _CODE, 4),
    exit_row(
        *(28, "control-register access", (ExitReason.CR_READ, ExitReason.CR_WRITE), Source.REGISTER, 2),
        direction=READ,
        by=("CR0 mask", "CR4 mask", ("primary", 15), ("primary", 16), ("primary", 19), ("primary", 20)),
    ),
    exit_row(
        *(29, "MOV DR", (ExitReason.DR_READ, ExitReason.DR_WRITE), Source.REGISTER, 3),
        direction=READ,
        by=(("primary", 23),),
    ),
    exit_row(
        *(30, "I/O instruction", ExitReason.IO, Source.PORT, 1),
        direction=READ,
        by=(("primary", 24), ("primary", 25), "I/O bitmaps"),
    ),
    exit_row(
        *(31, "RDMSR", ExitReason.RDMSR, Source.ECX, 2),
        direction=READ,
        by=(("primary", 28), "MSR bitmaps"),
    ),
    exit_row(
        *(32, "WRMSR", ExitReason.WRMSR, Source.ECX, 2),
        direction=WRITE,
        by=(("primary", 28), "MSR bitmaps"),
    ),
    exit_row(33, "VM-entry failure: guest state", ExitReason.ENTRY_FAILURE, _CODE, 0, _STATE, L0),
    exit_row(34, "VM-entry failure: MSR loading", ExitReason.ENTRY_FAILURE, _CODE, 0, _STATE, L0),
    exit_row(36, "MWAIT", ExitReason.MWAIT, length=3, by=(("primary", 10),)),
    exit_row(
        *(37, "monitor trap flag", ExitReason.MONITOR_TRAP),
        why="a level steps its guest, unseen by it",
        by=(("primary", 27),),
    ),
    exit_row(39, "MONITOR", ExitReason.MONITOR, length=3, by=(("primary", 29),)),
    exit_row(40, "PAUSE", ExitReason.PAUSE, length=2, by=(("primary", 30), ("secondary", 10))),
    exit_row(
        *(41, "VM-entry failure: machine check", ExitReason.ENTRY_FAILURE, _CODE),
        *(0, "KVM takes machine checks itself", NEVER),
    ),
    exit_row(43, "TPR below threshold", ExitReason.TPR_THRESHOLD, why=_APIC, handlers=NEVER, by=(("primary", 21),)),
    exit_row(44, "APIC access", ExitReason.APIC_ACCESS, Source.OFFSET, 0, _APIC, NEVER, by=(("secondary", 0),)),
    exit_row(45, "virtualized EOI", ExitReason.EOI, Source.VECTOR, 0, _APIC, NEVER, by=(("secondary", 9),)),
    exit_row(
        *(46, "GDTR or IDTR access", ExitReason.DESCRIPTOR_TABLE, Source.TABLE, 3),
        direction=READ,
        by=(("secondary", 2),),
    ),
    exit_row(
        *(47, "LDTR or TR access", ExitReason.DESCRIPTOR_TABLE, Source.TABLE, 3),
        direction=READ,
        value=2,
        by=(("secondary", 2),),
    ),
    exit_row(48, "EPT violation", ExitReason.NESTED_PAGE_FAULT, Source.PHYSICAL, why=_MAP, by=(("secondary", 1),)),
    exit_row(
        *(49, "EPT misconfiguration", ExitReason.NESTED_MISCONFIGURATION, Source.PHYSICAL),
        why=_MAP,
        by=(("secondary", 1),),
    ),
    exit_row(50, "INVEPT", _VMX, _CODE, 5),
    exit_row(51, "RDTSCP", ExitReason.RDTSCP, length=3, by=(("primary", 12),)),
    exit_row(
        52, "preemption timer", ExitReason.PREEMPTION_TIMER, why="a level's clock for its guest", by=(("pin", 6),)
    ),
    exit_row(53, "INVVPID", _VMX, _CODE, 5),
    exit_row(54, "WBINVD or WBNOINVD", ExitReason.WBINVD, length=2, by=(("secondary", 6),)),
    exit_row(55, "XSETBV", ExitReason.XSETBV, Source.ECX, 3),
    exit_row(56, "APIC write", ExitReason.APIC_WRITE, Source.OFFSET, 0, _APIC, NEVER, by=(("secondary", 8),)),
    exit_row(57, "RDRAND", ExitReason.RDRAND, length=3, by=(("secondary", 11),)),
    exit_row(58, "INVPCID", ExitReason.INVPCID, length=5, by=(("primary", 9),)),
    exit_row(59, "VMFUNC", _VMX, _CODE, 3, "VM functions stay off: #UD", NEVER, by=(("secondary", 13),)),
    exit_row(60, "ENCLS", ExitReason.ENCLS, Source.EAX, 3, by=(("secondary", 15),)),
    exit_row(61, "RDSEED", ExitReason.RDSEED, length=3, by=(("secondary", 16),)),
    exit_row(
        *(62, "page-modification log full", ExitReason.PAGE_LOG_FULL),
        why="L0 does not log written pages",
        handlers=NEVER,
        by=(("secondary", 17),),
    ),
    exit_row(63, "XSAVES", ExitReason.XSAVES, length=3, why=_NOT_NESTED, handlers=NEVER, by=("XSS-exiting bitmap",)),
    exit_row(64, "XRSTORS", ExitReason.XRSTORS, length=3, why=_NOT_NESTED, handlers=NEVER, by=("XSS-exiting bitmap",)),
    exit_row(65, "PCONFIG", ExitReason.PCONFIG, Source.EAX, 3, _NOT_NESTED, NEVER, by=(("secondary", 27),)),
    exit_row(
        66, "SPP-related event", ExitReason.SUB_PAGE, Source.PHYSICAL, 0, _NOT_NESTED, NEVER, by=(("secondary", 23),)
    ),
    exit_row(67, "UMWAIT", ExitReason.UMWAIT, length=4, by=(("primary", 12),)),
    exit_row(68, "TPAUSE", ExitReason.TPAUSE, length=4, by=(("primary", 12),)),
    exit_row(69, "LOADIWKEY", ExitReason.LOADIWKEY, length=5, why=_NOT_NESTED, handlers=NEVER, by=(("tertiary", 0),)),
    exit_row(70, "ENCLV", ExitReason.ENCLV, Source.EAX, 3, _NOT_NESTED, NEVER, by=(("secondary", 28),)),
    exit_row(72, "ENQCMD PASID", ExitReason.ENQCMD, length=5, why=_NOT_NESTED, handlers=NEVER, by=(("secondary", 21),)),
    exit_row(
        73, "ENQCMDS PASID", ExitReason.ENQCMD, length=5, why=_NOT_NESTED, handlers=NEVER, by=(("secondary", 21),)
    ),
    exit_row(74, "bus lock", ExitReason.BUS_LOCK, why=_NOT_NESTED, handlers=NEVER, by=(("secondary", 30),)),
    exit_row(
        *(75, "instruction timeout", ExitReason.INSTRUCTION_TIMEOUT),
        why=_NOT_NESTED,
        handlers=NEVER,
        by=(("secondary", 31),),
    ),
    exit_row(76, "SEAMCALL", ExitReason.TDX_INSTRUCTION, _CODE, 4, "KVM answers it with #UD itself", NEVER),
    exit_row(77, "TDCALL", ExitReason.TDX_INSTRUCTION, _CODE, 4, "KVM answers it with #UD itself", NEVER),
    exit_row(78, "RDMSRLIST", ExitReason.RDMSRLIST, length=4, why=_NOT_NESTED, handlers=NEVER, by=(("tertiary", 6),)),
    exit_row(79, "WRMSRLIST", ExitReason.WRMSRLIST, length=4, why=_NOT_NESTED, handlers=NEVER, by=(("tertiary", 6),)),
    exit_row(
        *(80, "URDMSR", ExitReason.RDMSR, Source.INFORMATION, 5, _NOT_NESTED, NEVER),
        direction=READ,
        by=("MSR bitmaps",),
    ),
    exit_row(
        *(81, "UWRMSR", ExitReason.WRMSR, Source.INFORMATION, 5, _NOT_NESTED, NEVER),
        direction=WRITE,
        by=("MSR bitmaps",),
    ),
    exit_row(
        *(84, "RDMSR with an immediate", ExitReason.RDMSR, Source.INFORMATION, 9),
        direction=READ,
        by=(("primary", 28), "MSR bitmaps"),
    ),
    exit_row(
        *(85, "WRMSRNS with an immediate", ExitReason.WRMSR, Source.INFORMATION, 9),
        direction=WRITE,
        by=(("primary", 28), "MSR bitmaps"),
    ),
)

#: By basic exit reason.
VMX_EXITS: Final[Mapping[int, ExitRow]] = {row.code: row for row in _ROWS}
