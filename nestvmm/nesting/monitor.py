"""What L0 does itself with events that no level above claims, besides its devices."""

from __future__ import annotations

from collections.abc import Callable

from nestvmm.devices import Bus, Device
from nestvmm.engines import Engine
from nestvmm.kvm import Regs, Sregs
from nestvmm.nesting.designation import Claim, Scope
from nestvmm.x86.event import HANDLED, Event, Outcome, Result
from nestvmm.x86.exit_reason import REASONS, ExitReason

__all__ = ["GUEST_DIED", "describe_registers", "device_claims", "engine_claims", "monitor_claims"]

#: The exit status of a run whose guest died.
GUEST_DIED = 255

_UD = 6

# What the processor, without L0, would not do for level n.
_OTHERWISE = frozenset(
    {
        ExitReason.HYPERCALL,
        ExitReason.SVM_INSTRUCTION,
        ExitReason.VMX_INSTRUCTION,
        ExitReason.NESTED_PAGE_FAULT,
        ExitReason.NMI_WINDOW,
        ExitReason.SMI,
        ExitReason.INIT,
        ExitReason.TASK_SWITCH,
    }
)
# What happens after all when every level that claims it declines: the instruction executes, level n takes the event.
_PASSED = [
    reason
    for reason, row in REASONS.items()
    if row.engines and "direct" not in row.engines and reason not in _OTHERWISE
]


def describe_registers(regs: Regs, sregs: Sregs) -> str:
    """The registers in the order of the manuals, four to a line."""
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
    cells = [f"{name:>6}={getattr(regs, name):016x}" for name in names]
    cells += [f"{name:>6}={getattr(sregs, name):016x}" for name in ("cr0", "cr2", "cr3", "cr4", "efer")]
    cells.append(f"    cs={sregs.cs.selector:04x} base {sregs.cs.base:x}")
    return "\n".join(" ".join(cells[i : i + 4]) for i in range(0, len(cells), 4))


def monitor_claims(engine: Engine) -> list[Claim]:
    """L0's claims on the events that are no device's."""
    handlers: dict[ExitReason, Callable[[Event], Result]] = {
        ExitReason.SHUTDOWN: lambda _: _died(engine, "triple fault"),
        ExitReason.HLT: lambda _: _halted(engine),
        ExitReason.DEBUG: lambda _: _debugged(engine),
        ExitReason.INTERRUPT_WINDOW: lambda _: HANDLED,
        ExitReason.NMI_WINDOW: lambda _: HANDLED,
        # level n has no code for system-management mode, and KVM would leave its nested guest to look for some
        ExitReason.SMI: lambda _: HANDLED,
        ExitReason.INIT: lambda _: _died(engine, "an INIT reset its only processor"),
        ExitReason.TASK_SWITCH: lambda event: _task_switch(engine, event),
        ExitReason.EOI: lambda _: HANDLED,
        ExitReason.EMULATION_FAILURE: lambda event: _complete(engine, event),
        ExitReason.INTERNAL_ERROR: lambda event: _died(engine, f"KVM internal error, suberror {event.qualifier}"),
        ExitReason.ENTRY_FAILURE: lambda event: _died(
            engine, f"the processor refused its state: {engine.refusal(event.raw, event.info)}"
        ),
        ExitReason.NESTED_PAGE_FAULT: lambda event: _page_fault(engine, event),
        ExitReason.MEMORY_FAULT: lambda event: _died(engine, _memory_fault(event)),
        ExitReason.SYSTEM_EVENT: lambda event: Result.stopped(0, f"guest asked for system event {event.qualifier}"),
        ExitReason.UNKNOWN: lambda event: _died(engine, f"exit {event.raw} that nestvmm does not know"),
        ExitReason.RDMSR: lambda event: _read_msr(engine, event),
        ExitReason.WRMSR: lambda event: _write_msr(engine, event),
    }
    for reason in _PASSED:
        handlers[reason] = lambda _: HANDLED if engine.let_pass() else Result.declined()
    for reason in (ExitReason.HYPERCALL, ExitReason.SVM_INSTRUCTION, ExitReason.VMX_INSTRUCTION):
        handlers[reason] = lambda _: _undefined(engine)
    return [Claim(0, Scope(reason), handler, "L0", fallback=True) for reason, handler in handlers.items()]


def engine_claims(engine: Engine) -> list[Claim]:
    """What L0's C code answers for the engine."""
    return [Claim(0, scope, server, "L0") for scope, server in engine.servers()]


def device_claims(bus: Bus) -> list[Claim]:
    """L0's claims on the ports of its devices."""

    def handler(device: Device, base: int) -> Callable[[Event], Result]:
        return lambda event: device.access(event.qualifier - base, event)

    return [
        Claim(0, Scope(ExitReason.IO, first, last), device.server or handler(device, first), device.name)
        for first, last, device in bus.claims()
    ]


def _died(engine: Engine, why: str) -> Result:
    return Result.stopped(
        GUEST_DIED, f"guest at L{engine.vcpu.level} died: {why}\n{describe_registers(engine.regs(), engine.sregs())}"
    )


def _halted(engine: Engine) -> Result:
    if engine.let_pass() or engine.halt():
        return HANDLED
    return _died(engine, "it halted with interrupts off, so nothing can wake it")


def _debugged(engine: Engine) -> Result:
    """Declined by all: level n goes on; it takes the #BP of an INT3 itself, where the engine can let it."""
    engine.let_pass()
    return HANDLED


def _task_switch(engine: Engine, event: Event) -> Result:
    if engine.let_pass():
        return HANDLED
    return _died(engine, f"it switched tasks to {event.qualifier:#x}, by tables that lie where it has no memory")


def _undefined(engine: Engine) -> Result:
    """An instruction that level n's processor does not have."""
    why = engine.overstrained()
    return _died(engine, why) if why else Result.faulted(_UD)


def _complete(engine: Engine, event: Event) -> Result:
    result = engine.complete()
    if result.outcome is not Outcome.DECLINED:
        return result
    if not event.instruction:
        return _died(engine, "KVM could not fetch its next instruction (a jump outside memory?)")
    return _died(engine, f"KVM cannot emulate its instruction {event.instruction.hex(' ')}; {result.message}")


def _page_fault(engine: Engine, event: Event) -> Result:
    """No level below takes it: a hole, or a write to read-only memory; or nothing that a bus could answer."""
    if engine.let_pass():
        return HANDLED
    way = ("read", "wrote", "executed at")[event.direction]
    return _died(engine, f"it {way} physical address {event.qualifier:#x}, which the levels below do not let it")


def _memory_fault(event: Event) -> str:
    if event.qualifier == (1 << 64) - 1:
        return "KVM could not reach the memory behind one of its addresses"
    return f"KVM could not reach the memory behind physical address {event.qualifier:#x}"


def _read_msr(engine: Engine, event: Event) -> Result:
    """Declined by the levels above, or claimed by none: what KVM keeps, if KVM knows the MSR."""
    value = engine.get_msr(event.qualifier)
    return Result.declined() if value is None else Result.read(value)


def _write_msr(engine: Engine, event: Event) -> Result:
    if engine.let_pass():
        return HANDLED
    return HANDLED if engine.set_msr(event.qualifier, event.value) else Result.declined()
