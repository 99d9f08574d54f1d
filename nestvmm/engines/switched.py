"""What the svm and the vmx engine have in common: level n runs in the switcher, under a control block that L0 holds.

What the control block does not intercept behaves as in the direct engine, which these are otherwise. After an exit
that rang the doorbell level n is outside: its registers are in the mailbox and the block. After one that KVM served
to userspace directly KVM holds them, its vCPU being in guest mode.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines.cpuid import CpuidServer
from nestvmm.engines.direct import DirectEngine, debug_vectors
from nestvmm.engines.engine import EngineConfig, MemorySlot, MsrRange
from nestvmm.engines.nested import Nested
from nestvmm.engines.paravirtual import ADDRESS_MSRS, HYPERV_MSRS, TRAPPED, carry
from nestvmm.engines.shadow import Shadow
from nestvmm.engines.switcher import Switcher
from nestvmm.engines.trial import Trial
from nestvmm.engines.virtualization import Virtualization
from nestvmm.errors import HostError
from nestvmm.kvm import CpuidEntry, Kvm, KvmError, Regs, Sregs
from nestvmm.x86.control import RFLAGS_TF
from nestvmm.x86.event import Direction, Outcome, Result
from nestvmm.x86.exit_reason import REASONS, ExitReason
from nestvmm.x86.exit_row import ExitRow
from nestvmm.x86.scope import Scope
from nestvmm.x86.spans import Span

__all__ = ["SwitchedEngine"]

_SLOT_SWITCHER = 0
_SLOT_NESTED = 1
_SLOT_SHADOW = 2
_BP = 3
_UD = 6
# By the vector of a debug event.
_DEBUG: Mapping[int, int] = {1: lib.NV_DEBUG_STEPS, _BP: lib.NV_DEBUG_BREAKS}

# The mailbox's order: the numbers of the instruction encoding.
_ORDER = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *Regs.__match_args__[8:])
_NUMBERS = {name: number for number, name in enumerate(_ORDER)}


class SwitchedEngine(DirectEngine):
    """Level n under a control block of its own; see nestvmm.engines.engine.Engine.

    needs:   what the host must have for it, for the message to a user whose host lacks it
    virtualization:  what the switcher runs by
    exits:   all of its exits
    nested:  the virtualization that levels have by software, of `nested_type`
    _cr4:    the cffi pointer to what level n, outside, sees in CR4; `_start_switcher` sets it
    """

    needs: ClassVar[str]
    virtualization: ClassVar[Virtualization]
    exits: ClassVar[Mapping[int, ExitRow]]
    nested_type: ClassVar[type[Nested]]
    nested: Nested
    _cr4: Any

    @abstractmethod
    def _start_switcher(self, config: EngineConfig) -> Any:
        """Prepares the control block and the switcher's own state; gives the vendor's C struct."""

    @abstractmethod
    def _largest_page(self, entries: list[CpuidEntry]) -> int:
        """The largest page that nested page tables may have where CPUID is this: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB."""

    @abstractmethod
    def _inject(self, kind: int, vector: int, error_code: int | None) -> None:
        """Level n, outside, takes an event of a kind NV_EVENT_* at its next entry."""

    @abstractmethod
    def _block_sregs(self, sregs: Sregs) -> None:
        """Fills in what level n, outside, has in the block; the rest is live and there already."""

    @abstractmethod
    def _hide_sregs(self, sregs: Sregs) -> None:
        """Takes out what the switcher needs from level n's registers as KVM holds them."""

    @abstractmethod
    def _set_block_sregs(self, sregs: Sregs) -> None:
        """Sets what level n, outside, has in the block."""

    @abstractmethod
    def _show(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        """Level n's CPUID, and what the switcher needs of the same processor."""

    @abstractmethod
    def _hide(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        """What KVM offers without what is the switcher's."""

    @abstractmethod
    def _intercept(self, wanted: Sequence[Scope]) -> None:
        """Sets exactly those intercepts that these events need, and that the switcher's safety needs."""

    @classmethod
    def offered(cls, entries: list[CpuidEntry]) -> bool:
        """Whether CPUID shows what the switcher needs."""
        return cls.virtualization.shown(entries)

    @classmethod
    def traps(cls, reason: ExitReason, machine: str) -> bool:
        """What direct traps, and every exit that KVM's SVM or VMX can have."""
        return cls.name in REASONS[reason].engines

    def _filtered(self, ranges: Iterable[MsrRange]) -> list[MsrRange]:
        """None: accesses to MSRs that the control block's map does not have always exit."""
        return []

    def _stepping(self) -> bool:
        """Whether L0 has set level n's trap flag."""
        step = self._c.step
        return bool(step.active and step.traps and not step.trap.own)

    def _debug(self, scopes: Sequence[Scope]) -> None:
        """KVM's guest debugging knows nothing of a nested guest: L0 steps level n itself."""
        debug = sum(_DEBUG[vector] for vector in debug_vectors(scopes))
        if debug != self._c.switched.debug:
            self._c.switched.debug, self._c.switched.stepped = debug, 0

    @classmethod
    def works_here(cls) -> bool:
        """Whether this host's KVM offers its guests what the switcher needs."""
        try:
            with Kvm() as kvm:
                return cls.offered(kvm.get_supported_cpuid())
        except KvmError:
            return False

    def _link_memory(self, config: EngineConfig) -> None:
        self._switcher = self._open.enter_context(Switcher(self._vm, _SLOT_SWITCHER, self.name))
        largest = self._largest_page(self.supported_cpuid())
        self._named: dict[int, int] = {}
        self._shadow = self._open.enter_context(
            Shadow(self._vm, config, self.nested_type.tables, largest, _SLOT_SHADOW)
        )

    def _build_vcpu(self, config: EngineConfig) -> None:
        offered = self._kvm.get_supported_cpuid()
        if not self.offered(offered):
            raise HostError(f"engine {self.name} needs {self.needs}; `nestvmm doctor` says more")
        self._vcpu.set_cpuid(offered)
        self._mailbox: Any = self._switcher.place(lib.NV_SWITCHER_MAILBOX, "struct nv_mailbox *")
        self.mailbox = int(ffi.cast("uintptr_t", self._mailbox))
        self._open.callback(self._drop_mailbox)
        self._mailbox.state = lib.NV_SWITCHER_OUTSIDE
        self._mailbox.block = lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_BLOCK
        self.nested = self._open.enter_context(
            self.nested_type(self._vm, _SLOT_NESTED, self._switcher, config.memory, [config.level, *config.above])
        )
        self.nested.spare(config.ceilings)
        self._c = self._start_switcher(config)
        self._c.switched.mailbox = self._mailbox
        self._c.switched.paging = self.paging.c
        self._shadow.attach(self._c.switched)
        self.nested.attach(self._shadow)
        self._cpuid_server = CpuidServer(self._vcpu.fd, self._mailbox.regs, self._cr4)
        self._catches = False
        self.intercept(config.wanted)
        self._vcpu.set_regs(
            Regs(
                rip=lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_CODE,
                rsp=lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_MAILBOX,
            )
        )

    def _drop_mailbox(self) -> None:
        """The switcher's memory goes: registers are KVM's to give from now on, and it says that the vCPU is closed."""
        self._mailbox = ffi.new("struct nv_mailbox *")

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        """What level n's CPUID reports."""
        super().set_cpuid(entries)
        self._cpuid_server.fill(entries)
        self._shadow.c.largest = self._largest_page(entries)

    def shown_cpuid(self) -> list[CpuidEntry]:
        """Exactly what was set: every CPUID exits."""
        return self._cpuid

    def supported_cpuid(self) -> list[CpuidEntry]:
        """What KVM can offer, without what is the switcher's."""
        return self._hide(super().supported_cpuid())

    def servers(self) -> list[tuple[Scope, Server]]:
        """CPUID."""
        return [(Scope(ExitReason.CPUID), self._cpuid_server.server)]

    def overstrained(self) -> str:
        """Levels beyond those that L0 has room for, or a control block whose memory was taken away."""
        return self.nested.overstrained()

    def _check(self, status: int) -> None:
        if status < 0:
            if why := self.nested.overstrained():
                raise HostError(why)
            self._check_switcher()
        super()._check(status)

    def _check_switcher(self) -> None:
        if self._mailbox.state == lib.NV_SWITCHER_PANIC:
            names = ("vector", "error code", "RIP", "RSP", "CR2")
            words = ", ".join(f"{name} {word:#x}" for name, word in zip(names, self._mailbox.panic, strict=True))
            raise HostError(f"the switcher failed: {words}; this is an error in nestvmm or in this host's KVM")

    def _outside(self) -> bool:
        """Whether level n's state is in the block and the mailbox."""
        return bool(self._mailbox.state == lib.NV_SWITCHER_OUTSIDE)

    def _recall(self) -> None:
        """Makes level n be outside. What KVM served to userspace directly must be settled."""
        if not self._outside():
            self._check(lib.nv_switched_recall(self.vcpu))

    def intercepted(self) -> bool:
        """Whether it came by the doorbell."""
        return bool(self._c.switched.rung)

    def read_machine(self, depth: int, address: int, size: int, *, beneath: bool = False) -> bytes | None:
        """Bytes of a machine's physical memory."""
        return self.nested.read(depth, address, size, beneath=beneath)

    def write_machine(self, depth: int, address: int, data: bytes, *, beneath: bool = False) -> bool:
        """Writes it."""
        return self.nested.write(depth, address, data, beneath=beneath)

    def give(self, space: int, slots: Sequence[MemorySlot], devices: Sequence[Span]) -> None:
        """What Python levels above an image give of its guest's memory."""
        self.nested.given.set(space, slots, devices)

    def intercept_above(self, space: int, reasons: frozenset[ExitReason]) -> None:
        """Takes note of it."""
        self.nested.intercept(space, interrupts=ExitReason.INTERRUPT in reasons, nmis=ExitReason.NMI in reasons)

    def request_timer_above(self, space: int, cycles: int) -> None:
        """Refused: without VMX there is none."""
        self.request_timer(cycles)

    def inject_above(self, space: int, vector: int | None) -> None:
        """Queues it."""
        self.nested.inject(space, vector)
        self.kick()

    def request_window_above(self, space: int, *, nmi: bool) -> None:
        """Asks for it."""
        self.nested.request_window(space, nmi=nmi)

    def cpuid_asker(self, level: int) -> Server:
        """See native/nested_cpuid.c."""
        return self.nested.cpuid_asker(level)

    def answered_cpuid(self) -> tuple[int, int, int]:
        """Of the machine that goes on now."""
        return self.nested.answered_cpuid()

    def image_claims(self) -> list[tuple[int, Scope, Server]]:
        """For each image and the guest, all that a control block can ask for: of debug events it is INT3's #BP."""
        reasons = sorted({reason for row in self.exits.values() for reason in row.reasons} | {ExitReason.DEBUG})
        return [(level, Scope(reason), server) for level, server in self.nested.image_servers() for reason in reasons]

    def image_counts(self) -> list[tuple[int, int, int, int]]:
        """By level: exits, entries, other instructions of SVM or VMX."""
        return self.nested.counts()

    def remap(self, slots: Sequence[MemorySlot], reported: Sequence[Span], changed: Sequence[Span]) -> None:
        """Changes level n's nested page tables, and where KVM writes for level n."""
        self._shadow.change(slots, reported, changed)
        self.paging.set_slots(slots)
        for index, value in self._named.items():
            self._name(index, value)

    def _set_maps(self, ports: bytes, msrs: bytes) -> None:
        """Sets the permissions maps of level n's own block."""
        self._switcher.write(lib.NV_SWITCHER_IOPM, ports)
        self._switcher.write(lib.NV_SWITCHER_MSRPM, msrs)
        self.nested.c.own_maps += 1

    def _own_msrs(self) -> Sequence[MsrRange]:
        return TRAPPED

    def _name(self, index: int, value: int) -> bool:
        """Gives KVM an MSR that names level n's memory; none, where that is not level n's."""
        carried = carry(index, value, self._shadow.writable)
        return super().set_msr(index, carried or 0) and carried is not None

    def get_msr(self, index: int) -> int | None:
        """Level n's MSR as the engine keeps it."""
        return self._named[index] if index in self._named else super().get_msr(index)

    def set_msr(self, index: int, value: int) -> bool:
        """Sets level n's MSR; none of those by which KVM would write memory that is not level n's."""
        if HYPERV_MSRS[0] <= index <= HYPERV_MSRS[1]:
            return False
        if index not in ADDRESS_MSRS:
            return super().set_msr(index, value)
        if not self._name(index, value):
            return False
        self._named[index] = value
        return True

    def let_pass(self) -> bool:
        """Makes the page of a fault that every level declined a hole, or read-only memory."""
        event = self.vcpu.event
        if event.reason != ExitReason.NESTED_PAGE_FAULT:
            return False
        if event.space:
            return self.nested.given.concede(event.space, event.qualifier)
        return self._shadow.concede(event.qualifier, execute=event.direction == Direction.EXECUTE)

    def _carries_msr(self) -> bool:
        """Whether the event is of an MSR that the processor must not do: L0 carries it over to KVM's terms."""
        event = self.vcpu.event
        return event.reason in (ExitReason.RDMSR, ExitReason.WRMSR) and any(
            one.first <= event.qualifier <= one.last for one in self._own_msrs()
        )

    def settle(self) -> None:
        """Lets level n take the answer to its event: by KVM only if KVM holds its registers."""
        if self._outside():
            lib.nv_vcpu_finish(self.vcpu)
        else:
            super().settle()

    def intercept(self, wanted: Sequence[Scope]) -> None:
        """Changes the intercepts, in the control block that level n is next entered with."""
        self._recall()
        self._debug(wanted)
        self._wanted = tuple(wanted)
        self._renew_intercepts()

    def _renew_intercepts(self) -> None:
        """Intercepts what is wanted, and the exceptions that become events of another reason."""
        own = [_UD] if self._catches else []
        if self._c.switched.debug & lib.NV_DEBUG_BREAKS:
            own.append(_BP)
        self._intercept([*self._wanted, *(Scope(ExitReason.EXCEPTION, vector, vector) for vector in own)])

    def catch_undefined(self) -> None:
        """Intercepts #UD."""
        self._catches = True
        self.intercept(self._wanted)

    def try_instructions(self, codes: Sequence[bytes], entries: Sequence[CpuidEntry]) -> list[tuple[Trial, Trial]]:
        """What is undefined can be intercepted."""

        def intercepted(outcome: Trial) -> Trial:
            return Trial.HANDED_OVER if outcome is Trial.UNDEFINED else outcome

        return [(intercepted(first), intercepted(last)) for first, last in super().try_instructions(codes, entries)]

    def complete(self) -> Result:
        """Nothing: the processor lacks what it stopped at as undefined, and KVM emulates only accesses to devices.

        A guest of level n that executes where no memory is reads ones, as from any bus, and those are undefined.
        """
        ones = self.nested.c.active.depth and not self.vcpu.event.instruction_length
        if self._c.switched.rung or ones:
            return Result.faulted(_UD)
        return Result(Outcome.DECLINED, message=f"the {self.name} engine completes nothing")

    def _queue(self, vector: int) -> None:
        lib.nv_pending_interrupt(ffi.addressof(self._c.switched, "pending"), vector)

    def _awake(self) -> bool:
        own = lib.nv_pending_any(ffi.addressof(self._c.switched, "pending"))
        return bool(own or lib.nv_nested_injected(self.nested.c))

    def nmi(self) -> None:
        """Level n takes an NMI; no level above L0 sees it."""
        lib.nv_pending_nmi(ffi.addressof(self._c.switched, "pending"))
        self.kick()

    def request_window(self, *, nmi: bool) -> None:
        """One event when level n can take an interrupt or an NMI."""
        self._c.switched.pending.windows |= lib.NV_WINDOW_NMI if nmi else lib.NV_WINDOW_INTERRUPT

    def exception(self, vector: int, error_code: int | None) -> None:
        """Level n takes this exception before its next instruction."""
        self._recall()
        self._inject(lib.NV_EVENT_EXCEPTION, vector, error_code)

    def regs(self) -> Regs:
        """General registers."""
        if not self._outside():
            regs = self._vcpu.get_regs()
            if self._stepping():
                regs.rflags &= ~RFLAGS_TF
            return regs
        return Regs(**{name: self._mailbox.regs[number] for number, name in enumerate(_ORDER)})

    def _in_mailbox(self) -> bool:
        """Whether level n's registers are in the mailbox; those of a level that L0 steps are brought there."""
        if not self._outside() and self._stepping():
            self._recall()
        return self._outside()

    def set_regs(self, regs: Regs) -> None:
        """Sets the general registers."""
        if self._in_mailbox():
            self._put({name: getattr(regs, name) for name in _ORDER})
        else:
            self._vcpu.set_regs(regs)

    def change_regs(self, changes: Mapping[str, int]) -> None:
        """Sets some of the general registers."""
        if self._in_mailbox():
            self._put(changes)
        else:
            super().change_regs(changes)

    def _put(self, values: Mapping[str, int]) -> None:
        for name, value in values.items():
            self._mailbox.regs[_NUMBERS[name]] = value

    def sregs(self) -> Sregs:
        """Segment and control registers."""
        sregs = self._vcpu.get_sregs()
        if self._outside():
            self._block_sregs(sregs)
        else:
            self._hide_sregs(sregs)
        return sregs

    def set_sregs(self, sregs: Sregs) -> None:
        """Sets the segment and control registers."""
        self._recall()
        self._set_block_sregs(sregs)
