"""An exit as its handler sees it, and the handler's answer: the vocabulary of devices, hypervisors and the router."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from types import NoneType
from typing import Any, ClassVar, Final, NamedTuple, TypeGuard

from nestvmm._dispatch import Answer
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["HANDLED", "Direction", "Event", "Outcome", "Result", "is_result"]


class Direction(IntEnum):
    """Which way data moves, seen from the guest: IN, RDMSR and loads read."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


class Event(NamedTuple):
    """One exit in the coordinates of the hypervisor that handles it: caused by its guest, with its guest's addresses.

    reason:             why the guest stopped
    level:              the level that appears to have caused it: x+1 for a handler at level x
    qualifier:          port, MSR index, guest-physical address, vector, ... as the reason's row says
    direction:          Direction.READ, WRITE or EXECUTE
    size:               bytes of one element, 0 where nothing moves
    count:              elements of a string access, else 1
    value:              for a write of one element: what is written, little endian
    data:               for a write: all size * count bytes; for a read: b""
    info:               error code, KVM's suberror, DR6 of a debug event
    raw:                the engine's own exit code
    instruction:        the bytes at RIP that the engine reports, possibly none
    length:             bytes of the instruction, 0 where the engine does not tell or no instruction caused it
    """

    reason: ExitReason
    level: int
    qualifier: int = 0
    direction: int = Direction.READ
    size: int = 0
    count: int = 1  # type: ignore[assignment] # instead of the method of tuples
    value: int = 0
    data: bytes = b""
    info: int = 0
    raw: int = 0
    instruction: bytes = b""
    length: int = 0

    def __repr__(self) -> str:
        way = Direction(self.direction).name.lower()
        return (
            f"<{self.reason.label} {way} {self.qualifier:#x} size {self.size} count {self.count} "
            f"value {self.value:#x} from L{self.level}>"
        )


class Outcome(IntEnum):
    """What becomes of an event after a handler looked at it."""

    HANDLED = 0
    DECLINED = 1
    REFLECTED = 2
    FAULTED = 3
    STOPPED = 4
    RETRIED = 5


class _Fields(NamedTuple):
    outcome: Outcome
    value: int = 0
    data: bytes = b""
    level: int = 0
    vector: int = 0
    error_code: int | None = None
    status: int = 0
    message: str = ""


class Result(_Fields):
    """A handler's answer: the only type that a handler returns.

    Make one by these, or by `.read_bytes()`, `.reflected()`, `.faulted()` or `.stopped()`:

    handled():    the event is done; nothing goes back. A read gets zeros
    read(value):  the event is done and the guest reads this value, truncated to the event's size, repeated per element
    declined():   not for this hypervisor: the next level below that claims the event gets it, at last L0
    retry():      the guest comes to the instruction again, after whatever the handler repaired

    `retry` is only for events that an intercept stopped before they happened: the svm and vmx engines' own. A handler
    that sets RIP itself needs it not: the guest goes on there.
    """

    __slots__ = ()

    # set below: functions in C, which CPython calls in a third of the instructions that a static method takes
    handled: ClassVar[Callable[[], Result]]
    read: ClassVar[Callable[[int], Result]]
    declined: ClassVar[Callable[[], Result]]
    retry: ClassVar[Callable[[], Result]]

    @classmethod
    def read_bytes(cls, data: bytes) -> Result:
        """The event is done and the guest reads these bytes, size * count of them (padded with zeros)."""
        return cls(Outcome.HANDLED, int.from_bytes(data[:8], "little"), data)

    @classmethod
    def reflected(cls, level: int) -> Result:
        """Not for this hypervisor: the handler at `level`, which lies below this one, gets it."""
        return cls(Outcome.REFLECTED, level=level)

    @classmethod
    def faulted(cls, vector: int, error_code: int | None = None) -> Result:
        """The guest takes an exception instead: 0 to 31 without 2, with an error code where the vector has one."""
        return cls(Outcome.FAULTED, vector=vector, error_code=error_code)

    @classmethod
    def stopped(cls, status: int, message: str = "") -> Result:
        """The run ends with this exit status (0 to 255) and, unless empty, this message."""
        return cls(Outcome.STOPPED, status=status, message=message)


HANDLED = Result(Outcome.HANDLED)
_DECLINED = Result(Outcome.DECLINED)

Result.handled = Answer(HANDLED).same
Result.read = Answer(HANDLED).read
Result.declined = Answer(_DECLINED).same
Result.retry = Answer(Result(Outcome.RETRIED)).same

# Of a Result's fields, in their order.
_TYPES: Final[tuple[Any, ...]] = (Outcome, int, (bytes, bytearray), int, int, (int, NoneType), int, str)


def is_result(answer: object) -> TypeGuard[Result]:
    """Whether what a handler returned is a Result, all fields of which have their types."""
    if answer is _DECLINED:
        return True  # the most frequent one
    return type(answer) is Result and len(answer) == len(_TYPES) and all(map(isinstance, answer, _TYPES))
