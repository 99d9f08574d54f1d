"""A hypervisor that watches: it writes events down and declines them all."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from nestvmm.errors import UsageError
from nestvmm.hypervisors.base import Guest, HandlerClaim, Hypervisor
from nestvmm.x86.event import Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Logger"]

_ALL = (1 << 64) - 1


class Logger(Hypervisor):
    """Writes a line for each event of the given reasons and declines it, so that the levels below go on as without it.

    reasons: labels joined by `+`, such as `io+wrmsr` (default io)
    first, last: only qualifiers in this range (both included; default all)
    file:    where the lines go (default standard error)
    limit:   after so many lines it only counts (default 1000)
    """

    def __init__(
        self, reasons: str = "io", first: int = 0, last: int = _ALL, file: str = "", limit: int = 1000
    ) -> None:
        try:
            self._reasons = [ExitReason.from_label(label) for label in reasons.split("+")]
        except KeyError:
            raise UsageError(
                f"reasons {reasons!r}: expected exit reasons joined by +; `nestvmm reasons` lists them"
            ) from None
        if not 0 <= first <= last <= _ALL:
            raise UsageError(f"qualifiers {first:#x} to {last:#x} are no range")
        self._first = first
        self._last = last
        self._path = file
        self._file: TextIO = sys.stderr
        self._limit = limit
        self.seen = 0

    def start(self, guest: Guest) -> None:
        """Opens its file."""
        super().start(guest)
        if self._path:
            try:
                self._file = Path(self._path).open("w", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise UsageError(f"logger file {self._path}: {error.strerror}") from None

    def stop(self) -> None:
        """Closes its file."""
        if self._file is not sys.stderr:
            self._file.close()
            self._file = sys.stderr

    def claims(self) -> Iterable[HandlerClaim]:
        """All events of its reasons and qualifiers."""
        for reason in self._reasons:
            yield reason, self._first, self._last, None, self.log

    def log(self, event: Event) -> Result:
        """Writes the event down and declines it."""
        self.seen += 1
        if self.seen <= self._limit:
            print(f"L{event.level - 1} logger: {event!r}", file=self._file)
        return Result.declined()

    def designated(self, event: Event) -> Result:
        """Logs what a designation sends here."""
        return self.log(event)
