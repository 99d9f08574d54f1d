"""A block of MSRs that no processor has: the plainest feature that only L0 can give.

| MSR | access | what it is |
| --- | --- | --- |
| 0x4e560100 | read | "nestvmm" in ASCII, the first letter in the lowest byte |
| 0x4e560101 | read | the number of the level that reads it |
| 0x4e560108-0x4e56010f | read, write | the level's own scratch registers, 0 at first |

Everything else in the block, and a write to the first two, is #GP.
"""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar

from nestvmm.nesting.designation import Scope
from nestvmm.nesting.features.cpu import Cpu
from nestvmm.nesting.features.emulator import Emulator
from nestvmm.x86.event import HANDLED, Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["ID", "LEVEL", "SCRATCH", "MsrBlock"]

_FIRST, _LAST = 0x4E560100, 0x4E56010F
ID = _FIRST
LEVEL = _FIRST + 1
SCRATCH = range(_FIRST + 8, _LAST + 1)

_ID_VALUE = int.from_bytes(b"nestvmm", "little")
_REFUSED = Result.faulted(13, 0)


class MsrBlock(Emulator):
    """The block, with scratch registers for each level."""

    feature: ClassVar[str] = "msr_block"
    scopes: ClassVar[tuple[Scope, ...]] = (
        Scope(ExitReason.RDMSR, _FIRST, _LAST),
        Scope(ExitReason.WRMSR, _FIRST, _LAST),
    )
    absent: ClassVar[Result] = _REFUSED

    def __init__(self, levels: frozenset[int]) -> None:
        super().__init__(levels)
        self._scratch: dict[int, dict[int, int]] = defaultdict(dict)

    def handle(self, event: Event, cpu: Cpu) -> Result:
        """RDMSR or WRMSR within the block."""
        index = event.qualifier
        if index in SCRATCH:
            scratch = self._scratch[cpu.level]
            if event.reason is ExitReason.RDMSR:
                return Result.read(scratch.get(index, 0))
            scratch[index] = event.value
            return HANDLED
        if event.reason is ExitReason.RDMSR and index in (ID, LEVEL):
            return Result.read(_ID_VALUE if index == ID else cpu.level)
        return _REFUSED
