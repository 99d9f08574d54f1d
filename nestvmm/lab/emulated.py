"""What labs on an emulated machine share: one boot serves many commands, and a dead machine is started again once."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO, ClassVar, Self

from nestvmm.lab.base import Lab, say
from nestvmm.lab.machine import Launch, Machine
from nestvmm.lab.session import LabError, Output, Request, SessionLostError

__all__ = ["EmulatedLab"]


class EmulatedLab(Lab):
    """A lab under an emulator; a context manager that boots on entry and leaves nothing behind.

    When the machine dies or hangs, it is started again once and says so; a command that was running is then run from
    its start.

    Args:
        boot_timeout: seconds until a machine that does not come up is given up.
        report: takes messages for the user.

    Attributes:
        restarts: how often it was started again: 0 or 1.
        boot_seconds: what the last boot took.
    """

    NAME: ClassVar[str]

    def __init__(self, boot_timeout: float, report: Callable[[str], None] = say) -> None:
        self._boot_timeout = boot_timeout
        self._report = report
        self._machine: Machine | None = None
        self.restarts = 0
        self.boot_seconds = 0.0

    @abstractmethod
    def _prepare(self) -> None:
        """Find, fetch or build what every boot needs. Raises HostError."""

    @abstractmethod
    def _launch(self, console: BinaryIO) -> AbstractContextManager[Launch]:
        """How to start the machine, whose serial console goes to a file; entered anew for each start."""

    def __enter__(self) -> Self:
        self._prepare()
        try:
            self._boot()
        except SessionLostError as error:
            self._restart(error)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def _execute(self, request: Request, output: Output, restarted: Callable[[], None]) -> int:
        while True:
            if self._machine is None:
                raise LabError(f"the {self.NAME} is not running: it failed twice, or was never entered")
            try:
                return self._machine.run(request, output)
            except SessionLostError as error:
                if not request.stdin.rewind():
                    self._stop()
                    raise LabError(
                        f"the {self.NAME} failed ({error}) after {request.argv[0]} had read its input"
                    ) from None
                self._restart(error)
            restarted()

    def _boot(self) -> None:
        start = time.monotonic()
        self._machine = Machine(self._launch, self._boot_timeout)
        try:
            self._machine.wait_ready()
        except BaseException:
            self._stop()
            raise
        self.boot_seconds = time.monotonic() - start

    def _restart(self, why: SessionLostError) -> None:
        """Boot again after a failure, once in the life of this lab."""
        self._stop()
        if self.restarts:
            raise LabError(f"the {self.NAME} failed again: {why}: run it on a less loaded machine")
        self.restarts += 1
        self._report(f"the {self.NAME} failed ({why}); starting it again")
        try:
            self._boot()
        except SessionLostError as error:
            reasons = list(dict.fromkeys(map(str, (why, error))))
            raise LabError(f"the {self.NAME} failed twice: {'; then: '.join(reasons)}") from None

    def _stop(self) -> None:
        if self._machine:
            self._machine.stop()
        self._machine = None
