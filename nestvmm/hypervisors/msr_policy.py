"""MSRs as a hypervisor's level wants its guest to see them."""

from __future__ import annotations

from collections.abc import Iterable

from nestvmm.errors import UsageError
from nestvmm.hypervisors.base import HandlerClaim, Hypervisor
from nestvmm.x86.event import HANDLED, Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["MsrPolicy"]

_GP = 13


class MsrPolicy(Hypervisor):
    """Keeps a range of MSRs of its own: each reads as what was last written to it, at first as `value`.

    first, last: the MSRs (both included; last defaults to first)
    value:       what they read before the first write (default 0)
    readonly:    writes raise #GP
    deny:        reads and writes raise #GP
    """

    def __init__(
        self, first: int, last: int | None = None, value: int = 0, readonly: bool = False, deny: bool = False
    ) -> None:
        self._first = first
        self._last = first if last is None else last
        if not 0 <= self._first <= self._last <= 0xFFFFFFFF:
            raise UsageError(f"MSRs {self._first:#x} to {self._last:#x} are not within 0 to 0xffffffff")
        self._default = value
        self._readonly = readonly
        self._deny = deny
        self._values: dict[int, int] = {}

    def claims(self) -> Iterable[HandlerClaim]:
        """Reads and writes of its MSRs."""
        yield ExitReason.RDMSR, self._first, self._last, None, self.read
        yield ExitReason.WRMSR, self._first, self._last, None, self.write

    def read(self, event: Event) -> Result:
        """RDMSR."""
        if self._deny:
            return Result.faulted(_GP, 0)
        return Result.read(self._values.get(event.qualifier, self._default))

    def write(self, event: Event) -> Result:
        """WRMSR."""
        if self._deny or self._readonly:
            return Result.faulted(_GP, 0)
        self._values[event.qualifier] = event.value
        return HANDLED
