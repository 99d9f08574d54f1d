"""What the hypervisor at level x sees of level x+1, on top of an engine that runs level n."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Protocol

from nestvmm._dispatch import RegisterState, RegisterView
from nestvmm.engines import Engine
from nestvmm.kvm import Regs, Sregs
from nestvmm.nesting.exception import wrong_exception
from nestvmm.nesting.memory import MemoryMap, Region
from nestvmm.nesting.propagation import Effects
from nestvmm.nesting.tower_maps import TowerMaps
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier
from nestvmm.x86.rights import Rights

if TYPE_CHECKING:
    from nestvmm.hypervisors import Guest

__all__ = ["GuestView", "PhysicalMemory", "VcpuState"]

_EFER = 0xC0000080


class PhysicalMemory(Protocol):
    """Some level's: nestvmm.nesting.levels.LevelMemory, or an image's guest's."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a physical address; raises GuestAccessError."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Writes at a physical address; raises GuestAccessError."""
        ...


class VcpuState(RegisterState):
    """Level n's registers during one event: read once when a handler asks, written back once when it is done.

    Only the fields that a handler changed are written: the answer to the event itself, such as IN's result in RAX, is
    the engine's to deliver.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, Regs, engine.mailbox)
        self._engine = engine
        self._new_sregs: Sregs | None = None
        self._exception: tuple[int, int | None] | None = None

    def close(self) -> None:
        """The engine's memory is about to go: who still holds a view asks the engine, which says that it is closed."""
        super().__init__(self._engine, Regs, 0)
        self.forget()

    def sregs(self) -> Sregs:
        """Segment and control registers with the changes so far."""
        return self._engine.sregs() if self._new_sregs is None else deepcopy(self._new_sregs)

    def set_sregs(self, sregs: Sregs) -> None:
        """Keeps new segment and control registers."""
        self._new_sregs = deepcopy(sregs)
        self.more = True

    def inject(self, vector: int, error_code: int | None) -> None:
        """Keeps an exception that level n takes after everything else."""
        self._exception = vector, error_code
        self.more = True

    def flush(self) -> None:
        """Writes the changes to level n, after the engine gave the event's own answer, and forgets all."""
        if changes := self.changes():
            self._engine.change_regs(changes)
        if self._new_sregs is not None:
            self._engine.set_sregs(self._new_sregs)
        if self._exception is not None:
            self._engine.exception(*self._exception)
        self._new_sregs = None
        self._exception = None
        self.forget()


class GuestView(RegisterView):
    """Level `level` for the hypervisor below it; see nestvmm.hypervisors.Guest."""

    def __init__(
        self,
        level: int,
        engine: Engine,
        state: VcpuState,
        maps: TowerMaps,
        memory: PhysicalMemory,
        effects: Effects,
        remap: Callable[[int, MemoryMap, int, int], None],
        reclaim: Callable[[], None],
    ) -> None:
        super().__init__(state)
        self.level = level
        self._engine = engine
        self._state = state
        self._maps = maps
        self._memory = memory
        self._effects = effects
        self._remap = remap
        self._reclaim = reclaim

    @property
    def sregs(self) -> Sregs:
        """Segment and control registers: a copy."""
        return self._state.sregs()

    def set_sregs(self, sregs: Sregs) -> None:
        """Replaces the segment and control registers."""
        self._state.set_sregs(sregs)

    def skip(self, length: int) -> None:
        """Moves RIP behind an instruction."""
        if not 1 <= length <= 15:
            raise ValueError(f"an instruction has 1 to 15 bytes, not {length}")
        regs = self.regs
        regs.rip += length
        self.set_regs(regs)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of its physical memory."""
        return self._memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Writes its physical memory."""
        self._memory.write(address, data)

    def map(self, base: int, size: int, to: int, rights: Rights = Rights.ALL) -> None:
        """Gives it memory."""
        region = Region(base, size, to, rights)
        self._change(self._maps.map_of(self.level - 1).given(region), region)

    def protect(self, base: int, size: int, rights: Rights) -> None:
        """Changes what it may do with memory that it has."""
        region = Region(base, size, base)
        self._change(self._maps.map_of(self.level - 1).protected(base, region.last, rights), region)

    def unmap(self, base: int, size: int) -> None:
        """Takes memory away."""
        region = Region(base, size, base)
        self._change(self._maps.map_of(self.level - 1).without(base, region.last), region)

    def _change(self, new: MemoryMap, where: Region) -> None:
        self._remap(self.level - 1, new, where.base, where.last)

    def line(self, number: int, level: bool) -> None:
        """Sets an interrupt line."""
        self._engine.irq_line(number, level)

    def interrupt(self, vector: int) -> None:
        """Queues an external interrupt."""
        self._engine.interrupt(vector)

    def nmi(self) -> None:
        """Injects an NMI."""
        self._engine.nmi()

    def inject(self, vector: int, error_code: int | None = None) -> None:
        """Injects an exception."""
        if wrong := wrong_exception(vector, error_code):
            raise ValueError(wrong)
        self._state.inject(vector, error_code)

    def request_interrupt_window(self) -> None:
        """Asks for one event when it can take an interrupt."""
        self._engine.request_window(nmi=False)

    def request_nmi_window(self) -> None:
        """Asks for one event when it can take an NMI."""
        self._engine.request_window(nmi=True)

    def request_timer(self, cycles: int) -> None:
        """Asks for one event when it has run so long."""
        self._engine.request_timer(cycles)

    def read_msr(self, index: int) -> int | None:
        """The value of an MSR."""
        return self._state.sregs().efer if index == _EFER else self._engine.get_msr(index)

    def write_msr(self, index: int, value: int) -> bool:
        """Sets an MSR."""
        if index != _EFER:
            return self._engine.set_msr(index, value)
        sregs = self._state.sregs()
        sregs.efer = value
        self._state.set_sregs(sregs)
        return True

    def claims_changed(self) -> None:
        """Has all claims asked for again."""
        self._reclaim()

    def last(self, reason: ExitReason, qualifier: int, *, write: bool = False) -> int | None:
        """The value that a level below this one last gave or took."""
        tops = [(qualifier, qualifier)]
        if REASONS[reason].qualifier is Qualifier.PHYSICAL:
            tops = self._maps.at_top(self.level, qualifier, qualifier)
        return self._effects.seen_by(self.level, reason, (top for top, _ in tops), write)


if TYPE_CHECKING:

    def _is_guest(view: GuestView) -> Guest:
        return view
