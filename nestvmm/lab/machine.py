"""One run of an emulator with the lab's agent in it, and the watch over it."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from socket import socket
from typing import BinaryIO

from nestvmm.lab.session import Output, Request, Session, SessionLostError

__all__ = ["Launch", "Machine"]

SILENCE_LIMIT = 120.0  # seconds without an answer from the agent, under any load seen here
STALLED_SILENCE_LIMIT = 30.0  # the same once the kernel has complained about a stall
DEAD_SILENCE_LIMIT = 3.0  # the same once the kernel or the emulator has said its last word
STALL = re.compile(rb"rcu:? .*(stall|kthread starved)|soft lockup|hung_task", re.IGNORECASE)
DEATH = re.compile(rb"kernel panic|>>panic<<", re.IGNORECASE)
TROUBLE = re.compile(rb"assertion|\bbug:|qemu-system|" + STALL.pattern + b"|" + DEATH.pattern, re.IGNORECASE)
CONSOLE_TAIL = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an emulator once.

    Attributes:
        emulator: what messages call it.
        argv: its command line.
        inherited: the descriptors that it gets besides 0, 1 and 2.
        environment: variables that it has besides those of this process.
        connect: the near end of the agent's channel, or None when the emulator has not opened its own end soon.
        spins: it takes processor time while its machine is idle, so it is stopped between commands.
    """

    emulator: str
    argv: Sequence[str]
    inherited: Sequence[int]
    environment: Mapping[str, str]
    connect: Callable[[], socket | None]
    spins: bool = False


class Machine:
    """One emulator process with its console, which is kept in unnamed files, and the session with its agent.

    Args:
        prepare: given a file for the machine's serial console, how to start; entered for the start only.
        boot_timeout: seconds without a word after which a machine that has not come up is lost.

    Raises SessionLostError when the emulator ends at once or never opens the channel.
    """

    def __init__(self, prepare: Callable[[BinaryIO], AbstractContextManager[Launch]], boot_timeout: float) -> None:
        self._silence_limit = boot_timeout
        with ExitStack() as undo:
            self._console: BinaryIO = undo.enter_context(tempfile.TemporaryFile())
            self._said: BinaryIO = undo.enter_context(tempfile.TemporaryFile())
            with prepare(self._console) as launch:
                self._launch = launch
                self._process = subprocess.Popen(
                    launch.argv,
                    pass_fds=launch.inherited,
                    env={**os.environ, **launch.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                    start_new_session=True,  # a Ctrl-C is for this process, which then stops the machine
                )
                undo.callback(self._process.wait)
                undo.callback(self._process.kill)
                self._session = Session(self._connect(), self._watch)
                undo.callback(self._session.close)
            self._end = undo.pop_all()

    def wait_ready(self) -> None:
        """Return when the agent has reported."""
        self._session.wait_ready()
        self._silence_limit = SILENCE_LIMIT
        self._pause()

    def run(self, request: Request, output: Output) -> int:
        """Session.run on a machine that does not idle."""
        self._process.send_signal(signal.SIGCONT)
        try:
            return self._session.run(request, output)
        finally:
            self._pause()

    def _pause(self) -> None:
        if self._launch.spins:
            self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End it at once: nothing in it is worth keeping."""
        self._end.close()

    def _connect(self) -> socket:
        start = time.monotonic()
        while (channel := self._launch.connect()) is None:
            self._watch(time.monotonic() - start)
        return channel

    def _watch(self, silence: float) -> None:
        """Raise SessionLostError when the machine has ended or has been silent for too long."""
        name = self._launch.emulator
        if silence == math.inf:  # the channel closed: the emulator is ending
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                raise SessionLostError(f"its channel closed{self._complaint()}") from None
        if self._process.poll() is not None:
            raise SessionLostError(f"{name} ended with status {self._process.returncode}{self._complaint()}")
        limit = self._silence_limit
        for symptom, patience in ((DEATH, DEAD_SILENCE_LIMIT), (STALL, STALLED_SILENCE_LIMIT)):
            if patience < silence <= limit and symptom.search(self._tail()):
                limit = patience
        if silence > limit:
            raise SessionLostError(f"it did not answer for {silence:.0f} s{self._complaint()}")

    def _complaint(self) -> str:
        """What the console or the emulator itself said about it, as the end of a sentence."""
        lines = [line.strip() for line in self._tail().splitlines() if line.strip()]
        telling = [line for line in lines if TROUBLE.search(line)] or lines
        return f": {telling[-1].decode(errors='replace')}" if telling else ""

    def _tail(self) -> bytes:
        """The last of what the emulator and the console said."""
        texts = []
        for file in (self._said, self._console):
            end = os.fstat(file.fileno()).st_size
            texts.append(os.pread(file.fileno(), CONSOLE_TAIL, max(0, end - CONSOLE_TAIL)))
        return b"\n".join(texts)
