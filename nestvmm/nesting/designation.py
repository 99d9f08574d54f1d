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
from nestvmm.x86.exit_reason import REASONS, SPACED, ExitReason, Qualifier
from nestvmm.x86.scope import QUALIFIER_MAX, Scope

__all__ = ["QUALIFIER_MAX", "Ceiling", "Claim", "DesignationTable", "Handler", "Scope"]

Handler = Callable[[Event], Result]


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


# Gives the scope of level x's claim, of guest-physical addresses at level x + 1, as ranges at level n.
Project = Callable[[int, Scope], Iterable[tuple[int, int]]]


def _unprojected(_level: int, scope: Scope) -> Iterable[tuple[int, int]]:
    return ((scope.first, scope.last),)


@dataclass(frozen=True)
class DesignationTable:
    """All claims and ceilings of a tower; `project` carries physical ranges to level n (identity unless given)."""

    claims: tuple[Claim, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    project: Project = field(default=_unprojected)

    def projected(self, level: int, scope: Scope) -> list[Scope]:
        """The scope of a claim or ceiling of `level`, in the coordinates of level n."""
        if scope.reason not in SPACED and REASONS[scope.reason].qualifier is not Qualifier.PHYSICAL:
            return [scope]
        return [Scope(scope.reason, first, last, scope.direction) for first, last in self.project(level, scope)]

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
