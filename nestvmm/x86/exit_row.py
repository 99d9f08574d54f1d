"""One row of the table of all exits: what a manual calls it, how it reads here, who may handle it and why.

svm_exits.py and vmx_exits.py hold the rows. `native/svm_exits.c` and `native/vmx_exits.c` have those columns that an
exit is decoded by (compared by tests/x86/test_exit_tables.py).
"""

from __future__ import annotations

from enum import Enum, IntEnum, unique
from typing import Final, NamedTuple

from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason

__all__ = [
    "EVENT",
    "EXECUTE",
    "INSTRUCTION",
    "L0",
    "LEVELS",
    "MACHINE",
    "NEVER",
    "PENDING",
    "READ",
    "WRITE",
    "ExitRow",
    "Handlers",
    "Intercept",
    "Source",
    "exit_row",
]


@unique
class Source(IntEnum):
    """Where an event's qualifier is. "Information" is EXITINFO1 of SVM, the exit qualification of VMX."""

    NOTHING = 0
    ROW = 1
    CODE = 2
    CODE_4 = 3
    CODE_5 = 4
    RAX = 5
    EAX = 6
    ECX = 7
    INFORMATION = 8
    PORT = 9
    SELECTOR = 10
    OFFSET = 11
    VECTOR = 12
    REGISTER = 13
    TABLE = 14
    PHYSICAL = 15


@unique
class Handlers(Enum):
    """Who may handle an exit."""

    LEVELS = "levels"
    L0 = "L0"
    NEVER = "never"


class Intercept(NamedTuple):
    """What makes the processor exit: a field of the control block, and a bit of it (-1: the field as a whole)."""

    field: str
    bit: int = -1

    @property
    def label(self) -> str:
        """Such as `primary bit 7`."""
        return self.field if self.bit < 0 else f"{self.field} bit {self.bit}"


class ExitRow(NamedTuple):
    """One exit code of SVM or basic exit reason of VMX.

    code:        the number
    name:        the manual's name
    reasons:     the neutral reason; a second one where the exit's information says so: a write, or an NMI
    direction:   which way data moves; READ where the exit's information tells
    source:      where the qualifier is; what it is, REASONS tells
    value:       Source.ROW: the qualifier; Source.TABLE: what bit 28 of the instruction information is added to
    length:      bytes of the instruction's shortest form; 0: the exit is no instruction's
    handlers:    who may handle it
    why:         and why
    intercepts:  what makes the processor exit, any of them; none: it always does
    """

    code: int
    name: str
    reasons: tuple[ExitReason, ...]
    direction: Direction
    source: Source
    value: int
    length: int
    handlers: Handlers
    why: str
    intercepts: tuple[Intercept, ...]

    def qualifier(self) -> int | None:
        """The qualifier of every such exit; None: it differs."""
        constant = {
            Source.NOTHING: 0,
            Source.ROW: self.value,
            Source.CODE: self.code,
            Source.CODE_4: self.code & 15,
            Source.CODE_5: self.code & 31,
        }
        return constant.get(self.source)


# What the tables' rows are written with.
READ, WRITE, EXECUTE = Direction.READ, Direction.WRITE, Direction.EXECUTE
LEVELS, L0, NEVER = Handlers.LEVELS, Handlers.L0, Handlers.NEVER

# Why.
INSTRUCTION: Final = "the processor stops before it, so a level can do it instead"
EVENT: Final = "the processor stops before it is delivered, so a level can take or change it"
MACHINE: Final = "level n's own machine does it; a level can stop, repair or reset it"
PENDING: Final = "nothing is lost: it stays pending until level n is run without the intercept"


def exit_row(
    code: int,
    name: str,
    reason: ExitReason | tuple[ExitReason, ...],
    source: Source = Source.NOTHING,
    length: int = 0,
    why: str = INSTRUCTION,
    handlers: Handlers = LEVELS,
    *,
    direction: Direction = EXECUTE,
    value: int = 0,
    by: tuple[str | tuple[str, int], ...] = (),
) -> ExitRow:
    """The row of an exit; most are of instructions that any level may handle.

    by:  its intercepts: a field as a whole, or a field and its bit
    """
    reasons = reason if isinstance(reason, tuple) else (reason,)
    intercepts = tuple(Intercept(one) if isinstance(one, str) else Intercept(*one) for one in by)
    return ExitRow(code, name, reasons, direction, source, value, length, handlers, why, intercepts)
