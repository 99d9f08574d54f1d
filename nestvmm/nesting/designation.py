"""The designation table: which level handles which event. Pure data and pure functions; nothing here acts.

A hypervisor at level x claims events by reason and qualifier. Several levels may claim one event: the highest, which
is the one nearest to the guest, gets it first; what it declines goes to the next one below; what nobody claims is
L0's. A ceiling (`--designate REASON:QUALIFIER=Ln`) takes an event away from all levels above n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nestvmm.devices import Server
from nestvmm.x86.event import Direction, Event, Result
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier

__all__ = ["QUALIFIER_MAX", "Ceiling", "Claim", "DesignationTable", "Handler", "Scope"]

Handler = Callable[[Event], Result]

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

    @property
    def width(self) -> int:
        """How many qualifiers it has: of two claims of one level the narrower one comes first."""
        return self.last - self.first + 1

    @property
    def label(self) -> str:
        """The qualifier as the user writes it, such as `0x3f8-0x3ff` or `0x64:w`; `*` for all."""
        kind = REASONS[self.reason].qualifier
        way = {None: "", Direction.READ: ":r", Direction.WRITE: ":w"}.get(self.direction, "")
        if kind is Qualifier.NONE or (self.first == 0 and self.last == QUALIFIER_MAX):
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


@dataclass(frozen=True, slots=True)
class Claim:
    """Level `level` wants the events of `scope`; handler is Python, or a Server at level 0.

    fallback: L0's last word, to events that nobody really wants
    """

    level: int
    scope: Scope
    handler: Handler | Server
    who: str = ""
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Events of `scope`, in the coordinates of level `level` + 1, are not for any level above `level`."""

    level: int
    scope: Scope


# Gives a claimed range of guest-physical addresses at level x + 1 (first, last) as ranges at level n.
Project = Callable[[int, int, int], Iterable[tuple[int, int]]]


def _unprojected(_level: int, first: int, last: int) -> Iterable[tuple[int, int]]:
    return ((first, last),)


@dataclass(frozen=True)
class DesignationTable:
    """All claims and ceilings of a tower; `project` carries physical ranges to level n (identity unless given)."""

    claims: tuple[Claim, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    project: Project = field(default=_unprojected)

    def projected(self, level: int, scope: Scope) -> list[Scope]:
        """The scope of a claim or ceiling of `level`, in the coordinates of level n."""
        if REASONS[scope.reason].qualifier is not Qualifier.PHYSICAL:
            return [scope]
        return [
            Scope(scope.reason, first, last, scope.direction)
            for first, last in self.project(level, scope.first, scope.last)
        ]

    def route(self, reason: ExitReason, qualifier: int, direction: int = Direction.READ) -> list[Claim]:
        """Who may handle an event of level n, in the order of their turns; empty: nobody, so L0's default.

        The definition that the flat table in C is tested against: simple, not fast.
        """

        def matches(entry: Claim | Ceiling) -> bool:
            return any(scope.covers(reason, qualifier, direction) for scope in self.projected(entry.level, entry.scope))

        top = min((ceiling.level for ceiling in self.ceilings if matches(ceiling)), default=None)
        return in_turn(claim for claim in self.claims if matches(claim) and (top is None or claim.level <= top))

    def reasons(self) -> set[ExitReason]:
        """The reasons that levels above L0 claim."""
        return {claim.scope.reason for claim in self.claims if claim.level > 0}


def in_turn(claims: Iterable[Claim]) -> list[Claim]:
    """Claims on one event in the order of their turns: the highest level first, in a level the narrowest first."""
    return sorted(claims, key=lambda claim: (-claim.level, claim.scope.width))
