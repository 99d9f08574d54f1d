"""The base of Python hypervisors, and what one sees of its guest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from nestvmm.hypervisors.declare import declarations
from nestvmm.kvm import CpuidEntry, Regs, Sregs
from nestvmm.x86.event import Direction, Event, Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.rights import Rights

__all__ = ["Guest", "GuestAccessError", "HandlerClaim", "Hypervisor"]

# reason, first and last qualifier, direction, handler
HandlerClaim = tuple[ExitReason, int, int, Direction | None, Callable[[Event], Result]]


class GuestAccessError(Exception):
    """An access to guest-physical memory that the levels between do not back, or not with that right."""


class Guest(Protocol):
    """What the hypervisor at level x sees of level x+1.

    Whatever it changes is carried to the levels x+1 to n. Registers are those at the exit that is being handled; they
    can be read and written while a handler runs. `line` may be called from any thread.
    """

    level: int

    @property
    def regs(self) -> Regs:
        """General registers: a copy."""
        ...

    def set_regs(self, regs: Regs) -> None:
        """Replaces the general registers, RIP and RFLAGS."""
        ...

    @property
    def sregs(self) -> Sregs:
        """Segment and control registers: a copy."""
        ...

    def set_sregs(self, sregs: Sregs) -> None:
        """Replaces the segment and control registers."""
        ...

    def skip(self, length: int) -> None:
        """Moves RIP behind an instruction of 1 to 15 bytes."""
        ...

    def read(self, address: int, size: int) -> bytes:
        """Bytes of level x+1's physical memory; raises GuestAccessError."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Writes level x+1's physical memory; raises GuestAccessError."""
        ...

    def map(self, base: int, size: int, to: int, rights: Rights = Rights.ALL) -> None:
        """Level x+1's physical addresses from base on become level x's from `to` on, whatever they were before.

        Bytes, whole pages; from `start`, or from a handler on the vCPU's thread. Level n sees it at once, with the
        rights that all levels between and below give; memory that level x does not have itself stays a hole.
        With `unmap`, `protect` and a handler of `ExitReason.NESTED_PAGE_FAULT` (svm and vmx engines) this is demand
        paging and the logging of writes. Raises UsageError for what is no range of whole pages.
        """
        ...

    def protect(self, base: int, size: int, rights: Rights) -> None:
        """Level x gives these rights to memory of level x+1 in a range, and holes stay holes; no right: as `unmap`."""
        ...

    def unmap(self, base: int, size: int) -> None:
        """Level x gives level x+1 nothing at a range of physical addresses any more."""
        ...

    def line(self, number: int, level: bool) -> None:
        """Sets the level of an interrupt line (0 to 23) of the in-kernel irqchip; without one, does nothing.

        Raises ValueError above an image, which has that irqchip itself: what its guest has instead the image makes.
        """
        ...

    def interrupt(self, vector: int) -> None:
        """Injects an external interrupt of this vector (0 to 255; below images machine `bare` only), from any thread.

        It waits until the guest takes interrupts, behind what `inject` and `nmi` gave it, and ends a halt. Of several
        that wait the svm and vmx engines give the highest vector first, and each vector once, as a local APIC does; the
        direct engine gives all, in the order in which they were injected. Raises ValueError for another vector or
        machine.
        """
        ...

    def nmi(self) -> None:
        """Injects a non-maskable interrupt, from any thread; it waits while the guest is in the handler of another one.

        Under the svm and vmx engines one waits at most, and no level above sees it, as none sees other injected events.
        """
        ...

    def inject(self, vector: int, error_code: int | None = None) -> None:
        """Injects an exception (0 to 31, without 2) before the guest's next instruction: a trap behind the one handled.

        It comes first: before NMIs and interrupts, also before one whose delivery the exit interrupted, and with the
        registers that the handler set, whenever it set them. `Result.faulted` makes the instruction itself fault. On
        top of an exception whose delivery the exit interrupted it becomes a double fault, or ends in a shutdown, by the
        architecture's rules. #PF's address goes to CR2 by `set_sregs`. In real mode the error code is left out. A
        second one before the guest runs replaces the first. Raises ValueError for another vector, and where a vector
        that has an error code gets none, or one that has none gets one.
        """
        ...

    def request_interrupt_window(self) -> None:
        """Asks for one event `ExitReason.INTERRUPT_WINDOW` as soon as the guest can take an interrupt.

        It goes to the highest level that claims it. Raises ValueError under the direct engine.
        """
        ...

    def request_nmi_window(self) -> None:
        """Asks for one event `ExitReason.NMI_WINDOW` as soon as the guest can take an NMI; as the other one."""
        ...

    def request_timer(self, cycles: int) -> None:
        """Asks for one event `ExitReason.PREEMPTION_TIMER` when the guest has run so many cycles of its TSC.

        It goes to the highest level that claims it, above an image to one between that and the next; a second request
        replaces the first. Raises ValueError except under the vmx engine, and for what its timer cannot count.
        """
        ...

    def read_msr(self, index: int) -> int | None:
        """The guest's MSR, whoever handles its accesses to it; None: the engine keeps no such MSR."""
        ...

    def write_msr(self, index: int, value: int) -> bool:
        """Sets the guest's MSR; False: the engine refuses that. EFER is set when the event is done."""
        ...

    def claims_changed(self) -> None:
        """Has the claims of all hypervisors asked for again when the handler that runs is done; from that one only.

        The run ends with an error when the engine cannot trap what is claimed now. Claims of MMIO and of nested page
        faults cannot change: see `map`.
        """
        ...

    def last(self, reason: ExitReason, qualifier: int, *, write: bool = False) -> int | None:
        """The value that a handler below level x+1 last gave or took at this port, MSR or address; None: none did."""
        ...


class Hypervisor:
    """Software at level x, in Python; its guest is level x+1.

    Subclass it and declare handlers with `on_io`, `on_rdmsr` and the others of `nestvmm.hypervisors.declare`. State
    is the object's own; a tower makes one object per level. Options of the tower file and of `--level` are keyword
    arguments of the constructor: strings, integers or booleans.
    """

    guest: Guest

    #: Whether this object is a console that takes the run's standard input.
    console: bool = False

    @property
    def lost(self) -> int:
        """Bytes of its guest's output that nobody took."""
        return 0

    def start(self, guest: Guest) -> None:
        """Called once, before the guest's first instruction, from the vCPU's thread or before it starts."""
        self.guest = guest

    def stop(self) -> None:
        """Called once after the run, also after a failed one: free what `start` took."""

    def claims(self) -> Iterable[HandlerClaim]:
        """What it handles: the declared handlers, unless overridden to compute more from options."""
        for name, (reason, first, last, direction) in declarations(type(self)):
            yield reason, first, last, direction, getattr(self, name)

    def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        """What its guest's CPUID reports, given what the level itself sees; called once, before `start`.

        Above an image it is called for each CPUID, with the one leaf as the levels below have just answered it.
        """
        return entries

    def designated(self, event: Event) -> Result:
        """Handles what `--designate` sends to this level and no declared handler covers.

        A tower that designates such events to a level whose class does not override this is refused.
        """
        return Result.declined()

    def propagated(self, event: Event, value: int) -> None:
        """A level below handled an event of this level's guest; `value` was read or written. Override it sparingly."""

    def receive(self, data: bytes) -> int:
        """Takes console input for its guest, from any thread, and gives how many bytes it took; see `console`."""
        return 0
