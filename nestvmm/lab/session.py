"""The near end of a lab's channel: sends one command at a time to the agent (agent.py) and collects what it does."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from nestvmm.errors import HostError, NestvmmError
from nestvmm.lab import agent

__all__ = ["Input", "LabError", "LabResult", "LabTimeoutError", "Output", "Request", "Session", "SessionLostError"]

PING_EVERY = 2.0  # seconds without a word from the agent after which it is asked for one
KILL_GRACE = 15.0  # seconds that a killed command may take to end, many times what a loaded emulator needs
INTERRUPT_GRACE = 3.0  # the same while the user, who pressed Ctrl-C, waits

Output = Callable[[int, bytes], None]
"""Takes a piece of output as it comes: 1 (stdout) or 2 (stderr), and the bytes."""


class LabError(HostError):
    """The lab could not be started, or was lost with a command in it."""


class LabTimeoutError(NestvmmError):
    """A command ran for too long and was killed; `stdout` and `stderr` hold what it said until then."""

    status = 124

    def __init__(self, message: str, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


class SessionLostError(Exception):
    """The agent is gone or silent. Whoever owns the machine turns this into a restart or a LabError."""


@dataclass(frozen=True, slots=True)
class LabResult:
    """How a command ended.

    Attributes:
        status: its exit status; 127: not found, 126: not executable, 128 + n: ended by signal n.
        stdout, stderr: its output, or nothing when that went to a `stream`.
    """

    status: int
    stdout: bytes
    stderr: bytes


class Input:
    """A command's standard input: all of it, or a file descriptor that is read as the command asks for more."""

    def __init__(self, source: bytes | int) -> None:
        self._source = source
        self._used = 0
        self.wanted = False

    @property
    def descriptor(self) -> int | None:
        """What to wait for before `chunk` is called; None: nothing to wait for, or nothing is wanted."""
        return self._source if self.wanted and isinstance(self._source, int) else None

    def chunk(self) -> bytes:
        """The next piece, empty at the end."""
        self.wanted = False
        if isinstance(self._source, int):
            data = os.read(self._source, agent.CHUNK)
        else:
            data = self._source[self._used : self._used + agent.CHUNK]
        self._used += len(data)
        return data

    def rewind(self) -> bool:
        """Begin anew; false when that cannot be, because a descriptor's data is used up."""
        self.wanted = False
        if isinstance(self._source, bytes):
            self._used = 0
        return self._used == 0


@dataclass(frozen=True, slots=True)
class Request:
    """A command for the agent; `timeout` is in seconds, after which it is killed."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    stdin: Input
    timeout: float


@dataclass(slots=True)
class Session:
    """One agent, reached through `channel_socket`, which the session owns.

    Attributes:
        watch: called at least every PING_EVERY seconds with the seconds for which the agent has been silent; raises
            SessionLostError when its machine is dead or has been silent for too long.
    """

    channel_socket: socket.socket
    watch: Callable[[float], None]
    _channel: agent.Channel = field(init=False)
    _heard: float = field(init=False)
    _busy: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._channel = agent.Channel(self.channel_socket.fileno())
        self._heard = time.monotonic()

    def close(self) -> None:
        """Hang up: the agent kills what runs and ends."""
        self.channel_socket.close()

    def wait_ready(self) -> None:
        """Return when the agent has said that it is there. `watch` ends the wait."""
        while self._next(math.inf) != (agent.READY, b""):
            pass

    def run(self, request: Request, output: Output) -> int:
        """Run a command to its end and return its status.

        Raises:
            LabTimeoutError: it took longer than the request allows; it was killed and the session is usable.
            SessionLostError: the machine is gone, or still holds a command that would not die.
        Any other exception, such as KeyboardInterrupt or one that `output` raises, kills the command first.
        """
        if self._busy:
            raise SessionLostError("the command before this one could not be killed")
        self._heard = time.monotonic()
        deadline = self._heard + request.timeout
        self._busy = True
        self._send(agent.RUN, agent.encode_run(request.argv, request.cwd, request.env))
        try:
            while (status := self._step(deadline, request.stdin, output)) is None:
                if time.monotonic() >= deadline:
                    self._kill(KILL_GRACE, output)
                    raise LabTimeoutError(f"{request.argv[0]}: killed after {request.timeout:g} s in the lab")
        except (LabTimeoutError, SessionLostError):
            raise
        except BaseException:
            with contextlib.suppress(SessionLostError):  # then it stays busy, and the next run learns of it
                self._kill(INTERRUPT_GRACE, lambda fd, data: None)
            raise
        return status

    def _step(self, deadline: float, source: Input, output: Output) -> int | None:
        """Handle one frame, or wait until there is cause to look around; the exit status once it came."""
        if source.wanted and source.descriptor is None:
            self._send(agent.STDIN, source.chunk())
        frame = self._next(deadline, source)
        if frame is None:
            return None
        kind, payload = frame
        if kind == agent.EXIT:
            self._busy = False
            return int(struct.unpack("<i", payload)[0])
        if kind in (agent.STDOUT, agent.STDERR):
            output(1 if kind == agent.STDOUT else 2, payload)
        elif kind == agent.WANT:
            source.wanted = True
        return None

    def _next(self, deadline: float, source: Input | None = None) -> tuple[int, bytes] | None:
        """The next frame, or None after at most PING_EVERY seconds. The agent is pinged while a command runs."""
        if frame := self._channel.take():
            return frame
        poll = select.poll()
        poll.register(self._channel.fd, select.POLLIN)
        stdin = source.descriptor if source else None
        if stdin is not None:
            poll.register(stdin, select.POLLIN)
        pause = max(0.0, min(PING_EVERY, deadline - time.monotonic()))
        ready = {fd for fd, _ in poll.poll(math.ceil(pause * 1000))}
        if self._channel.fd in ready:
            self._fill()
        elif source and stdin in ready:
            self._send(agent.STDIN, source.chunk())
        silence = time.monotonic() - self._heard
        self.watch(silence)
        if self._busy and silence >= PING_EVERY:
            self._send(agent.PING)
        return self._channel.take()

    def _kill(self, grace: float, output: Output) -> None:
        """Kill the command and see it end, within `grace` seconds."""
        deadline = time.monotonic() + grace
        self._send(agent.KILL)
        while self._step(deadline, Input(b""), output) is None:
            if time.monotonic() >= deadline:
                raise SessionLostError(f"a killed command did not end within {grace:g} s")

    def _send(self, kind: int, payload: bytes = b"") -> None:
        try:
            self._channel.send(kind, payload)
        except OSError as error:
            self._lost(error)

    def _fill(self) -> None:
        try:
            self._channel.fill()
        except (EOFError, OSError) as error:
            self._lost(error)
        self._heard = time.monotonic()

    def _lost(self, error: Exception) -> NoReturn:
        self.watch(math.inf)
        raise SessionLostError("its channel closed") from error
