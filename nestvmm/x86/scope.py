"""Sets of events by reason, qualifier and direction: what levels claim, and engines trap."""

from __future__ import annotations

from dataclasses import dataclass

from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier

__all__ = ["QUALIFIER_MAX", "Scope"]

QUALIFIER_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Scope:
    """A set of events: one reason, the qualifiers from first to last (both included), one direction or both (None).

    A range of guest-physical addresses is in the coordinates of the level above the one that claims it.
    """

    reason: ExitReason
    first: int = 0
    last: int = QUALIFIER_MAX
    direction: Direction | None = None

    def covers(self, reason: ExitReason, qualifier: int, direction: int) -> bool:
        """Whether an event with these properties is in the set; EXECUTE counts as READ."""
        return reason is self.reason and self.first <= qualifier <= self.last and self.includes(direction)

    def includes(self, direction: int | None) -> bool:
        """Whether events of this direction may be in the set; None: of any. EXECUTE counts as READ."""
        if self.direction is None or direction is None:
            return True
        return (self.direction is Direction.WRITE) == (direction == Direction.WRITE)

    def is_whole(self) -> bool:
        """Whether it has every qualifier."""
        return (self.first, self.last) == (0, QUALIFIER_MAX)

    @property
    def width(self) -> int:
        """How many qualifiers it has: of two claims of one level the narrower one comes first."""
        return self.last - self.first + 1

    @property
    def label(self) -> str:
        """The qualifier as the user writes it, such as `0x3f8-0x3ff` or `0x64:w`; `*` for all."""
        kind = REASONS[self.reason].qualifier
        way = {None: "", Direction.READ: ":r", Direction.WRITE: ":w"}.get(self.direction, "")
        if kind is Qualifier.NONE or self.is_whole():
            return "*" + way
        if kind is Qualifier.INSTRUCTION:
            return _instruction_prefix(self.first, self.last) + way
        text = f"{self.first:#x}" if self.first == self.last else f"{self.first:#x}-{self.last:#x}"
        return text + way


def _instruction_prefix(first: int, last: int) -> str:
    """The common leading bytes of two instruction qualifiers, in hexadecimal."""
    low, high = first.to_bytes(8, "big"), last.to_bytes(8, "big")
    same = next((i for i in range(8) if low[i] != high[i]), 8)
    return low[:same].hex()
