"""What every lab offers: run a command, and the stock kernel that tests boot as a guest."""

from __future__ import annotations

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nestvmm.errors import UsageError
from nestvmm.lab.dialogue import Dialogue
from nestvmm.lab.session import Input, LabResult, LabTimeoutError, Output, Request

__all__ = ["Lab", "current_directory", "say"]

PASSED_ON = ("LANG", "HOME", "PATH", "PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME")
"""Variables of this process that commands see, beside NESTVMM_*."""


def say(message: str) -> None:
    """Tell the user about the lab, on stderr."""
    print(f"nestvmm: {message}", file=sys.stderr, flush=True)


def current_directory() -> Path:
    """Where commands run by default. Raises UsageError where it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current directory is gone; change to one that exists") from None


class Lab(ABC):
    """A machine that runs commands over this machine's files, one at a time."""

    @property
    @abstractmethod
    def kernel(self) -> Path:
        """A stock kernel's bzImage, on this machine and, by the same path, in the lab."""

    def run(
        self,
        command: str | Sequence[str | os.PathLike[str]],
        *,
        stdin: bytes | int | Dialogue = b"",
        timeout: float = math.inf,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stream: Output | None = None,
    ) -> LabResult:
        """Run a command in the lab and wait for its end. Processes that it leaves behind are killed.

        Args:
            command: an argument vector, or a string for /bin/sh -c.
            stdin: its input; a file descriptor to read it from as the command asks for it; or a dialogue, which hears
                the output.
            timeout: seconds after which it is killed; a restart of the lab begins them anew.
            cwd: its working directory; the caller's by default.
            env: variables beside those that are passed on (PATH, HOME, NESTVMM_* and a few more).
            stream: called with (1 or 2, bytes) as output comes; the result then holds none.

        Raises:
            LabTimeoutError: the command was killed; the lab is usable.
            LabError: the lab is lost.
        """
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else [os.fspath(word) for word in command]
        environment = {
            name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("NESTVMM_")
        }
        where = os.fspath(cwd if cwd is not None else current_directory())
        if isinstance(stdin, Dialogue):
            source: Input = stdin
            stream = stdin.hear
        else:
            source = Input(stdin)
        request = Request(words, where, environment | dict(env or {}), source, timeout)
        collected = {1: bytearray(), 2: bytearray()}

        def collect(fd: int, data: bytes) -> None:
            collected[fd] += data

        def forget() -> None:
            for output in collected.values():
                output.clear()

        try:
            status = self._execute(request, stream or collect, forget)
        except LabTimeoutError as error:
            raise LabTimeoutError(str(error), bytes(collected[1]), bytes(collected[2])) from None
        return LabResult(status, bytes(collected[1]), bytes(collected[2]))

    @abstractmethod
    def _execute(self, request: Request, output: Output, restarted: Callable[[], None]) -> int:
        """Run a command and return its status; `restarted` is called before it is run from its start again."""
