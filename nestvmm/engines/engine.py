"""The seam between towers and the ways to run level n.

An engine owns a KVM VM and its vCPU. It reports each event of level n through the run loop of `native/vcpu.c`;
everything else is what a handler may do to level n's state. The direct, svm and vmx engines all have this face; unit
tests put a fake here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Protocol

from nestvmm._native import lib
from nestvmm.devices import Server
from nestvmm.engines.guest_paging import GuestPaging
from nestvmm.engines.trial import Trial
from nestvmm.kvm import CpuidEntry, HostMemory, Regs, Sregs
from nestvmm.x86.event import Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope
from nestvmm.x86.spans import Span

__all__ = ["Engine", "EngineConfig", "MemorySlot", "MsrRange", "RunStatus"]


class RunStatus(IntEnum):
    """Why `Engine.run` came back."""

    EVENT = lib.NV_RUN_EVENT
    KICKED = lib.NV_RUN_KICKED
    DRAIN = lib.NV_RUN_DRAIN
    WINDOW = lib.NV_RUN_WINDOW
    ANSWERED = lib.NV_RUN_ANSWERED


class MemorySlot(Protocol):
    """A piece of level n's physical memory: addresses and sizes in bytes, whole pages."""

    @property
    def guest_address(self) -> int:
        """Where level n sees it."""
        ...

    @property
    def size(self) -> int:
        """How long it is."""
        ...

    @property
    def offset(self) -> int:
        """Where it starts in L0's memory."""
        ...

    @property
    def readonly(self) -> bool:
        """Whether level n's writes to it exit."""
        ...

    @property
    def executable(self) -> bool:
        """Whether level n may execute it, where the engine can withhold that."""
        ...


@dataclass(frozen=True, slots=True)
class MsrRange:
    """MSRs first to last (both included) whose reads, writes or both must exit."""

    first: int
    last: int
    read: bool
    write: bool


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine needs to build level n's machine.

    machine:    "pc" (in-kernel irqchip and PIT) or "bare"
    level:      n; with images, the lowest one's
    above:      the levels of the machine code above that, ascending: what each machine's guest is
    memory:     L0's memory; slots say which of it level n sees, and where
    wanted:     the events that levels above L0 claim
    l0_msrs:    MSRs of features that L0 emulates; unlike wanted ones they leave alone what else KVM does not know
    io_intercepts: claimed ports are intercepted before KVM does the access, where the engine can
    nesting:    the image level whose hypervisor gives the levels above it their SVM or VMX; 0: L0 does
    reported:   ranges (first, last) of level n's physical addresses where what the slots do not allow is an event
    ceilings:   events that no level above this one may have, whatever its control blocks ask for
    """

    machine: str
    level: int
    memory: HostMemory
    slots: Sequence[MemorySlot]
    wanted: Sequence[Scope] = ()
    l0_msrs: Sequence[MsrRange] = ()
    io_intercepts: bool = False
    reported: Sequence[Span] = ()
    above: Sequence[int] = ()
    nesting: int = 0
    ceilings: Sequence[tuple[int, Scope]] = ()


class Engine(Protocol):
    """One way to run level n; a context manager that frees the VM."""

    name: ClassVar[str]

    #: Features that L0's C code for this engine emulates, by their names in the catalogue.
    emulates: ClassVar[frozenset[str]]

    #: The cffi `struct nv_vcpu *` of native/vcpu.h; its event is the pending one.
    vcpu: Any

    #: Whether a level wants to see an instruction with these bytes, or hiding it forbids them: `complete` then leaves
    #: it alone, unless KVM failed at it and all of them declined.
    claimed: Callable[[bytes], bool]

    #: Address of the `struct nv_mailbox` that has level n's registers while level n is outside; 0: they are KVM's.
    mailbox: int

    #: Descriptor of the VM with an in-kernel irqchip, else -1.
    irqchip_fd: int

    #: The walk through level n's page tables.
    paging: GuestPaging

    def __enter__(self) -> Engine:
        """Gives the engine itself."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Frees the VM."""
        ...

    @staticmethod
    def traps(reason: ExitReason, machine: str) -> bool:
        """Whether events of this reason reach the designation table."""
        ...

    def supported_cpuid(self) -> list[CpuidEntry]:
        """What CPUID can offer level 1: of the first feature set, what CPUID shows."""
        ...

    def feature_msrs(self) -> dict[int, int]:
        """The MSRs that say what the processor can do, with the values that KVM can offer."""
        ...

    def filters_msrs(self) -> bool:
        """Whether accesses to MSRs of our choice exit."""
        ...

    def try_instructions(self, codes: Sequence[bytes], entries: Sequence[CpuidEntry]) -> list[tuple[Trial, Trial]]:
        """What each instruction does at CPL 0 and at CPL 3 where CPUID is `entries`; RAX points at memory."""
        ...

    def servers(self) -> list[tuple[Scope, Server]]:
        """What L0's C code answers for this engine, after all levels: L0 claims it."""
        ...

    def image_claims(self) -> list[tuple[int, Scope, Server]]:
        """What C code takes for levels of machine code, as their control blocks say: level, events, server.

        Of a server with the guest's own level: for the guest as a hypervisor, and for all that it runs.
        """
        ...

    def read_machine(self, depth: int, address: int, size: int, *, beneath: bool = False) -> bytes | None:
        """Bytes of the physical memory of a machine of native/nested.h that runs, -1: the one whose code does.

        beneath:  at addresses of what the image below gives it, beneath the Python levels between

        None: it has not all of them.
        """
        ...

    def write_machine(self, depth: int, address: int, data: bytes, *, beneath: bool = False) -> bool:
        """Writes it, part of it at the least; False: not all."""
        ...

    def give(self, space: int, slots: Sequence[MemorySlot], devices: Sequence[Span]) -> None:
        """The machines at depth `space`, from 1 on, have this memory from now on: offsets are the image's addresses.

        devices:  pages where accesses are events MMIO; all else is a NESTED_PAGE_FAULT of that space

        Raises HostError where there is no such machine.
        """
        ...

    def image_counts(self) -> list[tuple[int, int, int, int]]:
        """Of each level of machine code that acted as a hypervisor: its number, and three counts.

        Exits that went to it; times that it entered its guest; its other virtualization instructions, which L0 did.
        """
        ...

    def catch_undefined(self) -> None:
        """Makes an instruction that the processor does not know an emulation failure, where this engine can.

        At any time before level n runs. Instructions that nobody claims raise #UD as they did.
        """
        ...

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        """What level n's CPUID reports."""
        ...

    def shown_cpuid(self) -> list[CpuidEntry]:
        """What level n's CPUID does report at CPL 0: some engines do not let everything be hidden."""
        ...

    def run(self, enter: Callable[[], int] | None = None) -> int:
        """Runs level n until a RunStatus; raises HostError when the engine cannot go on.

        enter:  what does so in the place of nv_vcpu_run, and may handle events: those of `vcpu`
        """
        ...

    def kick(self) -> None:
        """Ends the current or next run with KICKED; from any thread."""
        ...

    def remap(self, slots: Sequence[MemorySlot], reported: Sequence[Span], changed: Sequence[Span]) -> None:
        """Level n's memory and its reported faults are these now; they changed in the ranges `changed` at most.

        Raises HostError or KvmError for memory that this engine cannot give.
        """
        ...

    def let_pass(self) -> bool:
        """What the pending event stopped happens after all; False: this engine cannot.

        The processor executes the instruction. Or an access to an address that a level withholds is one to a hole, or
        a write to read-only memory; the level is not asked again about that page until the map changes there.
        """
        ...

    def refusal(self, code: int, information: int) -> str:
        """What the processor found wrong with level n's state, by an ENTRY_FAILURE's own code and its information."""
        ...

    def intercepted(self) -> bool:
        """Whether nothing of the pending event has happened yet: an intercept stopped it."""
        ...

    def settle(self) -> None:
        """Lets level n take the answer to its event without running on, so that its registers are final."""
        ...

    def regs(self) -> Regs:
        """Level n's general registers."""
        ...

    def set_regs(self, regs: Regs) -> None:
        """Sets level n's general registers."""
        ...

    def change_regs(self, changes: Mapping[str, int]) -> None:
        """Sets some of level n's general registers, by their names in Regs."""
        ...

    def sregs(self) -> Sregs:
        """Level n's segment and control registers."""
        ...

    def set_sregs(self, sregs: Sregs) -> None:
        """Sets level n's segment and control registers."""
        ...

    def get_msr(self, index: int) -> int | None:
        """Level n's MSR as the engine keeps it; None: there is none."""
        ...

    def set_msr(self, index: int, value: int) -> bool:
        """Sets level n's MSR in the engine; False: refused."""
        ...

    def exception(self, vector: int, error_code: int | None) -> None:
        """Level n takes this exception before its next instruction."""
        ...

    def overstrained(self) -> str:
        """Why L0 cannot do what level n asks of its virtualization; empty: it can."""
        ...

    def complete(self) -> Result:
        """Level n stands at an instruction that KVM could not emulate: does it in KVM's stead.

        Handled; faulted, when the instruction does; or declined, with the reason as its message.
        """
        ...

    def interrupt(self, vector: int) -> None:
        """Queues an external interrupt for a machine without an irqchip; from any thread."""
        ...

    def intercept_above(self, space: int, reasons: frozenset[ExitReason]) -> None:
        """Of INTERRUPT and NMI, what comes from below to the machine at depth `space`, from 1 on, is its levels' event.

        Only these, from now on; declined by all, the machine takes it.
        """
        ...

    def request_timer_above(self, space: int, cycles: int) -> None:
        """As request_timer, for that machine and what it runs: the event is one of its space."""
        ...

    def inject_above(self, space: int, vector: int | None) -> None:
        """The machine at depth `space`, from 1 on, takes an external interrupt, or an NMI for None; from any thread."""
        ...

    def request_window_above(self, space: int, *, nmi: bool) -> None:
        """As request_window, for that machine: the event is one of its space."""
        ...

    def cpuid_asker(self, level: int) -> Server:
        """What declines events CPUID, and has `run` come back with ANSWERED when they are answered."""
        ...

    def answered_cpuid(self) -> tuple[int, int, int]:
        """After ANSWERED: bits of the levels that asked, leaf and subleaf. The answer is in the registers."""
        ...

    def halt(self) -> bool:
        """Level n executed HLT: waits for a queued interrupt or a kick; False when nothing can ever wake it."""
        ...

    def nmi(self) -> None:
        """Level n takes an NMI."""
        ...

    def request_window(self, *, nmi: bool) -> None:
        """One event INTERRUPT_WINDOW or NMI_WINDOW when level n can take such an event; from a handler.

        Raises ValueError when this engine cannot.
        """
        ...

    def request_timer(self, cycles: int) -> None:
        """One event PREEMPTION_TIMER when level n has run so many cycles of its TSC; from a handler.

        Raises ValueError when this engine cannot, or not that many.
        """
        ...

    def intercept(self, wanted: Sequence[Scope]) -> None:
        """Traps exactly these events, and L0's own, from now on. The pending event is settled."""
        ...

    def irq_line(self, number: int, level: bool) -> None:
        """Sets a line of the in-kernel irqchip; without one, does nothing. From any thread."""
        ...
