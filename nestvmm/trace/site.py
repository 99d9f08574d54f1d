"""Where level n was and who handled what it did: all that the events of one instruction have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestvmm._native import ffi
from nestvmm.nesting import Tower
from nestvmm.trace.instruction import Found, InstructionFinder, Stopped
from nestvmm.trace.text import without_marks
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Site", "SiteReader"]


@dataclass(frozen=True, slots=True)
class Site:
    """One instruction's events.

    level:    n, the level whose software caused them
    handler:  the level that handled them; who: its class, or L0's device
    raw:      the engine's own code for the exit
    found:    the instruction; its RIP 0 where nobody told
    """

    level: int
    handler: int
    who: str
    reason: ExitReason
    direction: Direction
    size: int
    raw: int
    found: Found


class SiteReader:
    """Makes the sites of a tower's events."""

    def __init__(self, tower: Tower) -> None:
        self._tower = tower
        self._finder = InstructionFinder(tower.engine)

    def read(self, record: Any) -> Site:
        """The site of an event, a cffi `struct nv_trace_record`, that level n is stopped at."""
        event = record.event
        claim = self._tower.flat.claim(event.slot)
        reason, direction = ExitReason(event.reason), Direction(event.direction)
        code = bytes(ffi.buffer(event.instruction, event.instruction_length))
        return Site(
            level=event.level,
            handler=event.handler,
            who="unclaimed" if claim is None else without_marks(claim.who),
            reason=reason,
            direction=direction,
            size=event.size,
            raw=event.raw,
            found=self._finder.find(Stopped(reason, direction, event.size, record.rip, code)),
        )
