"""The direct engine: level n is a plain KVM guest; what KVM hands to userspace is what traps.

It runs on any /dev/kvm. CPUID, RDTSC, control registers, exceptions and the like do not reach userspace from KVM, so
a tower that designates them needs the svm or vmx engine.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import ClassVar

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines.completion import Completer
from nestvmm.engines.engine import EngineConfig, MemorySlot, MsrRange, RunStatus
from nestvmm.engines.guest_paging import GuestPaging
from nestvmm.engines.msr_filter import msr_filter, msr_ranges
from nestvmm.engines.no_images import NoImages
from nestvmm.engines.slots import SlotTable
from nestvmm.engines.trial import Trial, try_instructions
from nestvmm.errors import HostError
from nestvmm.kvm import Cap, CpuidEntry, Kvm, KvmError, Regs, Sregs, Vcpu, Vm
from nestvmm.x86 import layout
from nestvmm.x86.control import RFLAGS_IF
from nestvmm.x86.event import Result
from nestvmm.x86.exit_reason import REASONS, ExitReason
from nestvmm.x86.scope import Scope
from nestvmm.x86.spans import Span

__all__ = ["DirectEngine", "debug_vectors"]

_EVENT = int(RunStatus.EVENT)
_DB = 1
_BP = 3

# KVM_MSR_EXIT_REASON_* (api.rst, KVM_CAP_X86_USER_SPACE_MSR): which refused accesses come to userspace
_MSR_INVALID = 1
_MSR_UNKNOWN = 2
_MSR_FILTERED = 4


def debug_vectors(wanted: Sequence[Scope]) -> frozenset[int]:
    """The vectors of debug events that are wanted: of 1 (single step) and 3 (INT3)."""
    scopes = [scope for scope in wanted if scope.reason is ExitReason.DEBUG]
    return frozenset(vector for vector in (_DB, _BP) if any(one.first <= vector <= one.last for one in scopes))


class DirectEngine(NoImages):
    """Level n as a plain KVM guest with one vCPU, whose own guests KVM nests; see nestvmm.engines.engine.Engine."""

    name: ClassVar[str] = "direct"
    emulates: ClassVar[frozenset[str]] = frozenset()
    mailbox = 0

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._open = ExitStack()
        self._interrupts: deque[int] = deque()
        self._wake = threading.Condition()
        self._kicked = False
        self._changed_at = 0
        self._debugged: frozenset[int] = frozenset()
        self._filters = False
        self._cpuid: list[CpuidEntry] = []
        self._completer: Completer | None = None
        self._slots = config.slots
        self.claimed: Callable[[bytes], bool] = lambda _: False
        self._open.callback(self._drop_completer)
        self.paging = GuestPaging(config.memory, config.slots)
        with self._open as opened:  # and closed again, when the rest cannot be opened
            self._build()
            self._open = opened.pop_all()

    def __enter__(self) -> DirectEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _build(self) -> None:
        config = self._config
        self._kvm: Kvm = self._open.enter_context(Kvm())
        self._vm: Vm = self._open.enter_context(self._kvm.create_vm())
        self._vm.set_tss_address(layout.TSS)
        self._vm.set_identity_map_address(layout.IDENTITY_MAP)
        self.irqchip_fd = -1
        if config.machine == "pc":
            self._vm.create_irqchip()
            self._vm.create_pit2(speaker=True)
            self.irqchip_fd = self._vm.fd
        self._link_memory(config)
        self._trap_msrs(config.wanted)
        self._vcpu: Vcpu = self._open.enter_context(self._vm.create_vcpu(0))
        self.vcpu = ffi.new("struct nv_vcpu *")
        # the mapping must outlive a late kick
        self._run = self._vcpu.kvm_run
        self._build_vcpu(config)
        if lib.nv_kick_init() < 0:
            raise HostError("cannot install the handler of the signal that interrupts KVM_RUN")

    def _link_memory(self, config: EngineConfig) -> None:
        """Gives KVM the memory of level n."""
        self._slot_table = SlotTable(self._vm, config.memory)
        self._slot_table.link(config.slots)

    def _build_vcpu(self, config: EngineConfig) -> None:
        """Makes the run loop's vCPU of KVM's."""
        self._debug(config.wanted)
        lib.nv_direct_init(self.vcpu, self._vcpu.fd, self._run, config.level)

    def intercept(self, wanted: Sequence[Scope]) -> None:
        """Changes what KVM hands over of MSRs and of debugging; everything else it hands over anyway."""
        self._trap_msrs(wanted)
        self._debug(wanted)

    def _debug(self, scopes: Sequence[Scope]) -> None:
        """Sets which debug events there are."""
        debug = debug_vectors(scopes)
        if debug != self._debugged:
            self._vcpu.set_guest_debug(single_step=_DB in debug, software_breakpoints=_BP in debug)
        self._debugged = debug

    def _trap_msrs(self, scopes: Sequence[Scope]) -> None:
        config = self._config
        claimed = self._filtered(msr_ranges(scopes))
        own = self._filtered([*config.l0_msrs, *self._own_msrs()])
        wanted = [*claimed, *(own if self.filters_msrs() else ())]
        if not wanted and not self._filters:
            return
        self._filters = True
        refused = _MSR_FILTERED | (_MSR_INVALID | _MSR_UNKNOWN if claimed else 0)
        self._vm.enable_cap(Cap.X86_USER_SPACE_MSR, refused)
        ranges, deny = msr_filter(wanted)
        self._vm.set_msr_filter(ranges, deny)

    def _filtered(self, ranges: Iterable[MsrRange]) -> list[MsrRange]:
        """Those that KVM's filter is to trap."""
        return list(ranges)

    def _own_msrs(self) -> Sequence[MsrRange]:
        """The MSRs that this engine answers itself, whatever features there are."""
        return ()

    def servers(self) -> list[tuple[Scope, Server]]:
        """Nothing: KVM answers what does not reach userspace."""
        return []

    @staticmethod
    def traps(reason: ExitReason, machine: str) -> bool:
        """HLT reaches userspace only where no in-kernel irqchip wakes the vCPU; the rest as the reasons' rows say."""
        if reason is ExitReason.HLT:
            return machine == "bare"
        return DirectEngine.name in REASONS[reason].engines

    def supported_cpuid(self) -> list[CpuidEntry]:
        """What KVM can offer."""
        return self._kvm.get_supported_cpuid()

    def feature_msrs(self) -> dict[int, int]:
        """What KVM can offer; empty where KVM does not tell."""
        if not self._kvm.check(Cap.GET_MSR_FEATURES):
            return {}
        return self._kvm.get_feature_msrs(self._kvm.get_msr_feature_index_list())

    def filters_msrs(self) -> bool:
        """Whether KVM has MSR filters that exit to userspace (Linux 5.10)."""
        return bool(self._kvm.check(Cap.X86_USER_SPACE_MSR) and self._kvm.check(Cap.X86_MSR_FILTER))

    def try_instructions(self, codes: Sequence[bytes], entries: Sequence[CpuidEntry]) -> list[tuple[Trial, Trial]]:
        """Runs each one in a small VM of its own."""
        return try_instructions(self._kvm, codes, entries)

    def catch_undefined(self) -> None:
        """Nothing: what KVM hands over it hands over anyway."""

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        """What level n's CPUID reports."""
        self._vcpu.set_cpuid(self._show(entries))
        self._cpuid = entries
        self.paging.set_cpuid(entries)

    def _show(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        """What KVM is to take for level n's CPUID."""
        return entries

    def shown_cpuid(self) -> list[CpuidEntry]:
        """KVM-PVM shows features of the processor's that it runs natively at CPL 3 whatever was set."""
        return self._vcpu.get_cpuid()

    def run(self, enter: Callable[[], int] | None = None) -> int:
        """Runs level n until a RunStatus."""
        if self._interrupts:
            self._deliver()
        status: int = lib.nv_vcpu_run(self.vcpu) if enter is None else enter()
        if status != _EVENT:
            self._check(status)
            if status == RunStatus.KICKED:
                # what is left of it must not end a later halt
                with self._wake:
                    self._kicked = False
        return status

    def _check(self, status: int) -> None:
        if status < 0:
            raise HostError(f"KVM_RUN failed: {os.strerror(-status)}; level {self._config.level} cannot go on")

    def kick(self) -> None:
        """Ends the current or next run, or a halt."""
        with self._wake:
            lib.nv_vcpu_kick(self.vcpu)
            self._kicked = True
            self._wake.notify_all()

    def remap(self, slots: Sequence[MemorySlot], reported: Sequence[Span], changed: Sequence[Span]) -> None:
        """Changes KVM's memory slots."""
        self._slot_table.link(slots)
        self._slots = slots
        self.paging.set_slots(slots)
        self._drop_completer()

    def let_pass(self) -> bool:
        """KVM has done with the instructions that it hands over here."""
        return False

    def refusal(self, code: int, information: int) -> str:
        """Only the processor's number."""
        return f"code {information:#x}"

    def intercepted(self) -> bool:
        """KVM has begun with whatever it hands over."""
        return False

    def overstrained(self) -> str:
        """KVM does it all."""
        return ""

    def settle(self) -> None:
        """KVM takes the answer to an exit when it is entered again: enter, and leave before the next instruction."""
        self._check(lib.nv_vcpu_settle(self.vcpu))
        self._changed_at = self.vcpu.exits

    def _apply(self) -> None:
        """Lets KVM take the registers that a completion left for its next entry."""
        if self._run.kvm_dirty_regs:
            self.settle()

    def regs(self) -> Regs:
        """General registers."""
        self._apply()
        return self._vcpu.get_regs()

    def set_regs(self, regs: Regs) -> None:
        """Sets the general registers."""
        self._apply()
        self._changed_at = self.vcpu.exits
        self._vcpu.set_regs(regs)

    def change_regs(self, changes: Mapping[str, int]) -> None:
        """Sets some of the general registers."""
        regs = self.regs()
        for name, value in changes.items():
            setattr(regs, name, value)
        self.set_regs(regs)

    def sregs(self) -> Sregs:
        """Segment and control registers."""
        return self._vcpu.get_sregs()

    def set_sregs(self, sregs: Sregs) -> None:
        """Sets the segment and control registers."""
        self._changed_at = self.vcpu.exits
        self._vcpu.set_sregs(sregs)

    def get_msr(self, index: int) -> int | None:
        """KVM's value of an MSR."""
        try:
            return self._vcpu.get_msrs([index])[index]
        except KvmError:
            return None

    def set_msr(self, index: int, value: int) -> bool:
        """Sets KVM's value of an MSR."""
        try:
            self._vcpu.set_msrs({index: value})
        except KvmError:
            return False
        return True

    def exception(self, vector: int, error_code: int | None) -> None:
        """Level n takes this exception before its next instruction."""
        events = self._vcpu.get_events()
        events.exception.injected = 1
        events.exception.nr = vector
        events.exception.has_error_code = int(error_code is not None)
        events.exception.error_code = error_code or 0
        self._vcpu.set_events(events)
        # KVM delivers one event at an entry; its word that it takes an interrupt is from before this one
        self._run.ready_for_interrupt_injection = 0

    @property
    def completer(self) -> Completer:
        """What does KVM's part where KVM cannot; made when it is needed first."""
        if self._completer is None:
            kicked = ffi.addressof(self.vcpu, "kicked")
            self._completer = Completer(self._vcpu, kicked, self._config.memory, self._slots, self._cpuid, self.claimed)
        return self._completer

    def _drop_completer(self) -> None:
        if self._completer is not None:
            self._completer.close()
            self._completer = None

    def complete(self) -> Result:
        """Does the instruction that KVM could not emulate, and those behind it that need no KVM."""
        return self.completer.complete(self.vcpu.exits != self._changed_at)

    def interrupt(self, vector: int) -> None:
        """Queues an external interrupt."""
        if not 0 <= vector <= 255:
            raise ValueError(f"interrupt vector {vector} is not within 0 to 255")
        if self._config.machine != "bare":
            raise ValueError("machine pc takes interrupts by its irqchip's lines: use Guest.line")
        self._queue(vector)
        self.kick()

    def _queue(self, vector: int) -> None:
        self._interrupts.append(vector)

    def halt(self) -> bool:
        """Waits until an interrupt is queued, or a kick; False when interrupts are off."""
        if not self.regs().rflags & RFLAGS_IF:
            return False
        with self._wake:
            self._wake.wait_for(lambda: self._kicked or self._awake())
            self._kicked = False
        return True

    def _awake(self) -> bool:
        """Whether something ends level n's halt."""
        return bool(self._interrupts)

    def nmi(self) -> None:
        """Level n takes an NMI."""
        self._vcpu.nmi()
        self.kick()

    def request_window(self, *, nmi: bool) -> None:
        """KVM keeps its windows to itself."""
        raise ValueError("the direct engine has no windows to wait for; the svm and vmx engines have")

    def request_timer(self, cycles: int) -> None:
        """Only VMX has that timer."""
        raise ValueError(f"the {self.name} engine has no preemption timer; the vmx engine has")

    def irq_line(self, number: int, level: bool) -> None:
        """Sets a line of the in-kernel irqchip."""
        if self.irqchip_fd >= 0:
            self._vm.irq_line(number, level)

    def _deliver(self) -> None:
        """Injects the first queued interrupt if level n can take one, else asks KVM to exit when it can."""
        run = self._run
        if run.ready_for_interrupt_injection and run.if_flag:
            self._vcpu.interrupt(self._interrupts.popleft())
            # it takes one at an entry
            run.ready_for_interrupt_injection = 0
        run.request_interrupt_window = bool(self._interrupts)
