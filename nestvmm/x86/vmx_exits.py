"""Every basic exit reason of VMX: Intel SDM vol. 3, appendix C; controls: 24.6.

Fields: "pin", "primary", "secondary" and "tertiary" are the VM-execution controls of these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.exit_row import ExitRow, Handlers, Intercept, Source

__all__ = ["VMX_EXITS"]

_READ, _WRITE, _EXECUTE = Direction.READ, Direction.WRITE, Direction.EXECUTE
_LEVELS, _L0, _NEVER = Handlers.LEVELS, Handlers.L0, Handlers.NEVER

# Why.
_INSTRUCTION: Final = "the processor stops before it, so a level can do it instead"
_EVENT: Final = "the processor stops before it is delivered, so a level can take or change it"
_MACHINE: Final = "level n's own machine does it; a level can stop, repair or reset it"
_PENDING: Final = "nothing is lost: it stays pending until level n is run without the intercept"
_WAITS: Final = "a level that has one to give waits for it"
_DUAL: Final = "KVM has no dual-monitor treatment of SMM"
_APIC: Final = "APIC virtualization stays off: KVM's own APIC is level n's"
_NOT_NESTED: Final = "KVM's nesting does not offer the control"
_STATE: Final = "the state that L0 built was refused"
_MAP: Final = "level n reached for what its map does not give it"

_VMX, _CODE = ExitReason.VMX_INSTRUCTION, Source.CODE


def _row(
    code: int,
    name: str,
    reason: ExitReason | tuple[ExitReason, ...],
    source: Source = Source.NOTHING,
    length: int = 0,
    why: str = _INSTRUCTION,
    handlers: Handlers = _LEVELS,
    *,
    direction: Direction = _EXECUTE,
    value: int = 0,
    by: tuple[str | tuple[str, int], ...] = (),
) -> ExitRow:
    reasons = reason if isinstance(reason, tuple) else (reason,)
    intercepts = tuple(Intercept(one) if isinstance(one, str) else Intercept(*one) for one in by)
    return ExitRow(code, name, reasons, direction, source, value, length, handlers, why, intercepts)


_ROWS: Final = (
    _row(
        *(0, "exception or NMI", (ExitReason.EXCEPTION, ExitReason.NMI), Source.VECTOR),
        why=f"{_EVENT}; L0 always intercepts NMIs, to stop level n at any time",
        by=("exception bitmap", ("pin", 3)),
    ),
    _row(1, "external interrupt", ExitReason.INTERRUPT, why=_PENDING, by=(("pin", 0),)),
    _row(2, "triple fault", ExitReason.SHUTDOWN, why=_MACHINE),
    _row(3, "INIT signal", ExitReason.INIT, why="the processor drops it; a level can reset level n"),
    _row(
        *(4, "start-up IPI", ExitReason.STARTUP_IPI, Source.VECTOR),
        *(0, "level n is never put into the state that waits for it", _NEVER),
    ),
    _row(5, "I/O SMI", ExitReason.SMI, why=_DUAL, handlers=_NEVER),
    _row(6, "other SMI", ExitReason.SMI, why=_DUAL, handlers=_NEVER),
    _row(7, "interrupt window", ExitReason.INTERRUPT_WINDOW, why=_WAITS, by=(("primary", 2),)),
    _row(8, "NMI window", ExitReason.NMI_WINDOW, why=_WAITS, by=(("primary", 22),)),
    _row(9, "task switch", ExitReason.TASK_SWITCH, Source.SELECTOR, why=_EVENT),
    _row(10, "CPUID", ExitReason.CPUID, Source.EAX, 2),
    _row(11, "GETSEC", ExitReason.GETSEC, length=2, why="KVM's guests cannot set CR4.SMXE: #UD", handlers=_NEVER),
    _row(12, "HLT", ExitReason.HLT, length=1, by=(("primary", 7),)),
    _row(13, "INVD", ExitReason.INVD, length=2),
    _row(14, "INVLPG", ExitReason.INVLPG, length=3, by=(("primary", 9),)),
    _row(15, "RDPMC", ExitReason.RDPMC, Source.ECX, 2, by=(("primary", 11),)),
    _row(16, "RDTSC", ExitReason.RDTSC, length=2, by=(("primary", 12),)),
    _row(17, "RSM", ExitReason.RSM, length=2, why=_DUAL, handlers=_NEVER),
    _row(18, "VMCALL", ExitReason.HYPERCALL, Source.RAX, 3),
    _row(19, "VMCLEAR", _VMX, _CODE, 4),
    _row(20, "VMLAUNCH", _VMX, _CODE, 3),
    _row(21, "VMPTRLD", _VMX, _CODE, 3),
    _row(22, "VMPTRST", _VMX, _CODE, 3),
    _row(23, "VMREAD", _VMX, _CODE, 3),
    _row(24, "VMRESUME", _VMX, _CODE, 3),
    _row(25, "VMWRITE", _VMX, _CODE, 3),
    _row(26, "VMXOFF", _VMX, _CODE, 3),
    _row(27, "VMXON", _VMX, _CODE, 4),
    _row(
        *(28, "control-register access", (ExitReason.CR_READ, ExitReason.CR_WRITE), Source.REGISTER, 2),
        direction=_READ,
        by=("CR0 mask", "CR4 mask", ("primary", 15), ("primary", 16), ("primary", 19), ("primary", 20)),
    ),
    _row(
        *(29, "MOV DR", (ExitReason.DR_READ, ExitReason.DR_WRITE), Source.REGISTER, 3),
        direction=_READ,
        by=(("primary", 23),),
    ),
    _row(
        *(30, "I/O instruction", ExitReason.IO, Source.PORT, 1),
        direction=_READ,
        by=(("primary", 24), ("primary", 25), "I/O bitmaps"),
    ),
    _row(
        *(31, "RDMSR", ExitReason.RDMSR, Source.ECX, 2),
        direction=_READ,
        by=(("primary", 28), "MSR bitmaps"),
    ),
    _row(
        *(32, "WRMSR", ExitReason.WRMSR, Source.ECX, 2),
        direction=_WRITE,
        by=(("primary", 28), "MSR bitmaps"),
    ),
    _row(33, "VM-entry failure: guest state", ExitReason.ENTRY_FAILURE, _CODE, 0, _STATE, _L0),
    _row(34, "VM-entry failure: MSR loading", ExitReason.ENTRY_FAILURE, _CODE, 0, _STATE, _L0),
    _row(36, "MWAIT", ExitReason.MWAIT, length=3, by=(("primary", 10),)),
    _row(
        *(37, "monitor trap flag", ExitReason.MONITOR_TRAP),
        why="a level steps its guest, unseen by it",
        by=(("primary", 27),),
    ),
    _row(39, "MONITOR", ExitReason.MONITOR, length=3, by=(("primary", 29),)),
    _row(40, "PAUSE", ExitReason.PAUSE, length=2, by=(("primary", 30), ("secondary", 10))),
    _row(
        *(41, "VM-entry failure: machine check", ExitReason.ENTRY_FAILURE, _CODE),
        *(0, "KVM takes machine checks itself", _NEVER),
    ),
    _row(43, "TPR below threshold", ExitReason.TPR_THRESHOLD, why=_APIC, handlers=_NEVER, by=(("primary", 21),)),
    _row(44, "APIC access", ExitReason.APIC_ACCESS, Source.OFFSET, 0, _APIC, _NEVER, by=(("secondary", 0),)),
    _row(45, "virtualized EOI", ExitReason.EOI, Source.VECTOR, 0, _APIC, _NEVER, by=(("secondary", 9),)),
    _row(
        *(46, "GDTR or IDTR access", ExitReason.DESCRIPTOR_TABLE, Source.TABLE, 3),
        direction=_READ,
        by=(("secondary", 2),),
    ),
    _row(
        *(47, "LDTR or TR access", ExitReason.DESCRIPTOR_TABLE, Source.TABLE, 3),
        direction=_READ,
        value=2,
        by=(("secondary", 2),),
    ),
    _row(48, "EPT violation", ExitReason.NESTED_PAGE_FAULT, Source.PHYSICAL, why=_MAP, by=(("secondary", 1),)),
    _row(
        *(49, "EPT misconfiguration", ExitReason.NESTED_MISCONFIGURATION, Source.PHYSICAL),
        why=_MAP,
        by=(("secondary", 1),),
    ),
    _row(50, "INVEPT", _VMX, _CODE, 5),
    _row(51, "RDTSCP", ExitReason.RDTSCP, length=3, by=(("primary", 12),)),
    _row(52, "preemption timer", ExitReason.PREEMPTION_TIMER, why="a level's clock for its guest", by=(("pin", 6),)),
    _row(53, "INVVPID", _VMX, _CODE, 5),
    _row(54, "WBINVD or WBNOINVD", ExitReason.WBINVD, length=2, by=(("secondary", 6),)),
    _row(55, "XSETBV", ExitReason.XSETBV, Source.ECX, 3),
    _row(56, "APIC write", ExitReason.APIC_WRITE, Source.OFFSET, 0, _APIC, _NEVER, by=(("secondary", 8),)),
    _row(57, "RDRAND", ExitReason.RDRAND, length=3, by=(("secondary", 11),)),
    _row(58, "INVPCID", ExitReason.INVPCID, length=5, by=(("primary", 9),)),
    _row(59, "VMFUNC", _VMX, _CODE, 3, "VM functions stay off: #UD", _NEVER, by=(("secondary", 13),)),
    _row(60, "ENCLS", ExitReason.ENCLS, Source.EAX, 3, by=(("secondary", 15),)),
    _row(61, "RDSEED", ExitReason.RDSEED, length=3, by=(("secondary", 16),)),
    _row(
        *(62, "page-modification log full", ExitReason.PAGE_LOG_FULL),
        why="L0 does not log written pages",
        handlers=_NEVER,
        by=(("secondary", 17),),
    ),
    _row(63, "XSAVES", ExitReason.XSAVES, length=3, why=_NOT_NESTED, handlers=_NEVER, by=("XSS-exiting bitmap",)),
    _row(64, "XRSTORS", ExitReason.XRSTORS, length=3, why=_NOT_NESTED, handlers=_NEVER, by=("XSS-exiting bitmap",)),
    _row(65, "PCONFIG", ExitReason.PCONFIG, Source.EAX, 3, _NOT_NESTED, _NEVER, by=(("secondary", 27),)),
    _row(
        66, "SPP-related event", ExitReason.SUB_PAGE, Source.PHYSICAL, 0, _NOT_NESTED, _NEVER, by=(("secondary", 23),)
    ),
    _row(67, "UMWAIT", ExitReason.UMWAIT, length=4, by=(("primary", 12),)),
    _row(68, "TPAUSE", ExitReason.TPAUSE, length=4, by=(("primary", 12),)),
    _row(69, "LOADIWKEY", ExitReason.LOADIWKEY, length=5, why=_NOT_NESTED, handlers=_NEVER, by=(("tertiary", 0),)),
    _row(70, "ENCLV", ExitReason.ENCLV, Source.EAX, 3, _NOT_NESTED, _NEVER, by=(("secondary", 28),)),
    _row(72, "ENQCMD PASID", ExitReason.ENQCMD, length=5, why=_NOT_NESTED, handlers=_NEVER, by=(("secondary", 21),)),
    _row(73, "ENQCMDS PASID", ExitReason.ENQCMD, length=5, why=_NOT_NESTED, handlers=_NEVER, by=(("secondary", 21),)),
    _row(74, "bus lock", ExitReason.BUS_LOCK, why=_NOT_NESTED, handlers=_NEVER, by=(("secondary", 30),)),
    _row(
        *(75, "instruction timeout", ExitReason.INSTRUCTION_TIMEOUT),
        why=_NOT_NESTED,
        handlers=_NEVER,
        by=(("secondary", 31),),
    ),
    _row(76, "SEAMCALL", ExitReason.TDX_INSTRUCTION, _CODE, 4, "KVM answers it with #UD itself", _NEVER),
    _row(77, "TDCALL", ExitReason.TDX_INSTRUCTION, _CODE, 4, "KVM answers it with #UD itself", _NEVER),
    _row(78, "RDMSRLIST", ExitReason.RDMSRLIST, length=4, why=_NOT_NESTED, handlers=_NEVER, by=(("tertiary", 6),)),
    _row(79, "WRMSRLIST", ExitReason.WRMSRLIST, length=4, why=_NOT_NESTED, handlers=_NEVER, by=(("tertiary", 6),)),
    _row(
        *(80, "URDMSR", ExitReason.RDMSR, Source.INFORMATION, 5, _NOT_NESTED, _NEVER),
        direction=_READ,
        by=("MSR bitmaps",),
    ),
    _row(
        *(81, "UWRMSR", ExitReason.WRMSR, Source.INFORMATION, 5, _NOT_NESTED, _NEVER),
        direction=_WRITE,
        by=("MSR bitmaps",),
    ),
    _row(
        *(84, "RDMSR with an immediate", ExitReason.RDMSR, Source.INFORMATION, 9),
        direction=_READ,
        by=(("primary", 28), "MSR bitmaps"),
    ),
    _row(
        *(85, "WRMSRNS with an immediate", ExitReason.WRMSR, Source.INFORMATION, 9),
        direction=_WRITE,
        by=(("primary", 28), "MSR bitmaps"),
    ),
)

#: By basic exit reason.
VMX_EXITS: Final[Mapping[int, ExitRow]] = {row.code: row for row in _ROWS}
