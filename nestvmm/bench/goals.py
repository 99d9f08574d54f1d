"""What ratios should be at most, and whether those of a benchmark are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nestvmm.bench.row import Row

__all__ = [
    "DEPTH",
    "FIRST_BYTE",
    "GOALS",
    "LINUX",
    "PORT_AND_KVMTOOL",
    "PORT_IN_C",
    "PORT_IN_PYTHON",
    "PORT_UP_TOWERS",
    "SWITCH_IN_C",
    "SWITCH_IN_PYTHON",
    "SWITCH_UP_TOWERS",
    "TRACED",
    "TWICE",
    "Goal",
    "Verdict",
    "verdicts",
]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of ratios.

    case:     in which case's rows
    about:    what is compared with what
    most:     the most that each ratio should be
    command:  what measures it
    handler:  what serves the exit, where the case has goals for several; empty: anything
    """

    case: str
    about: str
    most: float
    command: str
    handler: str = ""

    def is_of(self, row: Row) -> bool:
        """Whether it is this row's."""
        return (row.case, row.goal) == (self.case, self.most) and self.handler in ("", row.handler)


@dataclass(frozen=True, slots=True)
class Verdict:
    """worst: the row with the greatest ratio; None: it was not measured."""

    goal: Goal
    worst: Row | None

    @property
    def met(self) -> bool | None:
        """By all rows; None: not measured."""
        return None if self.worst is None else self.worst.met


_HOST: Final = "nestvmm bench"
_PEER: Final = "nestvmm bench --peer qemu"
_LAB: Final = "nestvmm bench --lab svm (or vmx)"
_COUNTING: Final = "nestvmm bench --lab svm --icount"

PORT_IN_C: Final = Goal("round-trip", "port read served in C, to a bare KVM_RUN loop", 1.10, _HOST, "C")
PORT_IN_PYTHON: Final = Goal("round-trip", "port read served in Python, to a bare KVM_RUN loop", 1.60, _HOST, "Python")
PORT_UP_TOWERS: Final = Goal(
    "round-trip", "port read served in Python, up to height 16, to height 2", 1.10, _HOST, "Python"
)
PORT_AND_KVMTOOL: Final = Goal("port", "port read served in C at level 1, to kvmtool", 1.00, _COUNTING)
FIRST_BYTE: Final = Goal("startup", "exec to the guest's first byte, to QEMU's", 1.00, _PEER)
SWITCH_IN_C: Final = Goal("switch", "CPUID served in C, to a bare VMRUN or VMRESUME loop", 1.15, _LAB, "C")
SWITCH_IN_PYTHON: Final = Goal(
    "switch", "CPUID served in Python, to such a loop, VMRUN's with shared tables", 1.40, _LAB, "Python"
)
SWITCH_UP_TOWERS: Final = Goal("switch", "CPUID served in Python, up to height 16, to height 2", 1.10, _LAB, "Python")
DEPTH: Final = Goal("depth", "exit to the image below the guest, up to level 8, to level 2", 1.10, _LAB)
TRACED: Final = Goal("tracing", "port read traced, to one that is not", 1.15, _HOST)
LINUX: Final = Goal("linux", "Linux's boot under svm with Python levels, to direct", 3.00, "nestvmm bench --lab svm")
TWICE: Final = Goal(
    "twice", "exit at level 3 above Linux's KVM twice: flat, to a cascade", 0.10, f"{_COUNTING} --case twice"
)

#: All of them, in the order of the cases.
GOALS: Final = (
    PORT_IN_C,
    PORT_IN_PYTHON,
    PORT_UP_TOWERS,
    SWITCH_IN_C,
    SWITCH_IN_PYTHON,
    SWITCH_UP_TOWERS,
    PORT_AND_KVMTOOL,
    DEPTH,
    TRACED,
    FIRST_BYTE,
    LINUX,
    TWICE,
)


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """On each goal."""
    judged = [row for row in rows if row.met is not None]
    return [
        Verdict(goal, max(filter(goal.is_of, judged), key=lambda row: row.ratio or 0.0, default=None)) for goal in GOALS
    ]
