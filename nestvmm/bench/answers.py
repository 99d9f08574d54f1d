"""Hypervisors in Python for what guests/rtt does: one takes the time at its bells, one answers, most do neither."""

from __future__ import annotations

from collections.abc import Iterable

from nestvmm._native import lib
from nestvmm.errors import UsageError
from nestvmm.hypervisors import HandlerClaim, Hypervisor
from nestvmm.x86.event import HANDLED, Direction, Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["BELL", "HOLE", "MSR", "PORT", "Answering", "Bells"]

#: The port at which a run begins; it ends at the next one.
BELL = 0xE0
#: What rtt reads and writes unless it is told otherwise.
PORT, MSR, HOLE = 0x5000, 0x4E560000, 0xD0000000
_PAGE = 0x1000
_LAST_LEAF = 0xFFFFFFFF

_EVERY = (1 << 64) - 1
_CLAIMS = {
    "port": (ExitReason.IO, PORT, PORT, Direction.READ),
    "mmio": (ExitReason.MMIO, HOLE, HOLE + _PAGE - 1, None),
    "msr-read": (ExitReason.RDMSR, MSR, MSR, None),
    "msr-write": (ExitReason.WRMSR, MSR, MSR, None),
    "cpuid": (ExitReason.CPUID, 0, _LAST_LEAF, None),
    "hypercall": (ExitReason.HYPERCALL, 0, _EVERY, None),
}


class Bells(Hypervisor):
    """Takes the time at the guest's bells; `ticks` has that of each run."""

    def __init__(self) -> None:
        self._start = 0
        self.ticks: list[int] = []

    def claims(self) -> Iterable[HandlerClaim]:
        """The bells."""
        yield ExitReason.IO, BELL, BELL, Direction.WRITE, self._begin
        yield ExitReason.IO, BELL + 1, BELL + 1, Direction.WRITE, self._end

    def _begin(self, event: Event) -> Result:
        self._start = lib.nv_ticks()
        return HANDLED

    def _end(self, event: Event) -> Result:
        self.ticks.append(int(lib.nv_ticks()) - self._start)
        return HANDLED


class Answering(Bells):
    """Answers one kind of exit, and has the bells where it is at level 1.

    kind:   port, mmio, msr-read, msr-write, cpuid or hypercall
    bells:  whether it takes the time
    """

    def __init__(self, kind: str, bells: bool = True) -> None:
        super().__init__()
        if kind not in _CLAIMS:
            raise UsageError(f"nothing answers {kind}; there are {', '.join(_CLAIMS)}")
        self._kind = kind
        self._bells = bells

    def claims(self) -> Iterable[HandlerClaim]:
        """The exits, and the bells."""
        if self._bells:
            yield from super().claims()
        yield *_CLAIMS[self._kind], self._registers if self._kind in ("cpuid", "hypercall") else self._value

    def _value(self, event: Event) -> Result:
        # a write moves what it writes
        return Result.read(0xFF)

    def _registers(self, event: Event) -> Result:
        regs = self.guest.regs
        regs.rax = 0
        self.guest.set_regs(regs)
        return HANDLED
