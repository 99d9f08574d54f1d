"""The far end of a lab's channel: runs one command at a time for the near end (session.py).

It runs inside the machine, started by the initramfs' init, so it imports nothing of nestvmm, and little else: every
import costs time under an emulated CPU.

    frame       kind (1 byte), length of payload (4 bytes, little endian), payload
    near end    RUN (working directory, number of arguments, arguments, environment, joined by NUL), STDIN (at most
                CHUNK bytes, only after a WANT; empty is end of file), KILL, PING
    far end     READY (once), STDOUT, STDERR, WANT (send more input), EXIT (status, 4 bytes), PONG
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
from contextlib import suppress

__all__ = ["CHUNK", "Channel", "encode_run"]

RUN, STDIN, KILL, PING, READY, STDOUT, STDERR, WANT, EXIT, PONG = range(10)
CHUNK = 1 << 16
HEADER = struct.Struct("<BI")


class Channel:
    """Frames over a file descriptor, which it borrows."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._received = bytearray()

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Send one frame; blocks until it is taken. Raises OSError when the other end is gone."""
        data = memoryview(HEADER.pack(kind, len(payload)) + payload)
        while data:
            data = data[os.write(self.fd, data) :]

    def fill(self) -> None:
        """Read what has arrived, at least a byte. Raises EOFError when the other end is gone."""
        data = os.read(self.fd, CHUNK)
        if not data:
            raise EOFError
        self._received += data

    def take(self) -> tuple[int, bytes] | None:
        """The oldest whole frame that has arrived: kind and payload."""
        if len(self._received) < HEADER.size:
            return None
        kind, length = HEADER.unpack_from(self._received)
        end = HEADER.size + length
        if len(self._received) < end:
            return None
        payload = bytes(self._received[HEADER.size : end])
        del self._received[:end]
        return kind, payload


def encode_run(argv: list[str], cwd: str, env: dict[str, str]) -> bytes:
    """The payload of RUN."""
    words = [cwd, str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]
    return b"\0".join(os.fsencode(word) for word in words)


class Command:
    """A running command in a session of its own, its three pipes, and a descriptor that tells of its end."""

    def __init__(self, payload: bytes, cgroup: str | None) -> None:
        cwd, count, *words = payload.split(b"\0")
        argv, env = words[: int(count)], dict(word.split(b"=", 1) for word in words[int(count) :])
        self._cgroup = cgroup
        self.input = b""
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._become(argv, cwd, env, (stdin, stdout, stderr))
        self.ended = os.pidfd_open(self._pid)
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)

    def _become(self, argv: list[bytes], cwd: bytes, env: dict[bytes, bytes], pipes: tuple[int, ...]) -> None:
        status = 126
        try:
            os.setsid()
            if self._cgroup:
                _write(f"{self._cgroup}/cgroup.procs", "0")
            for fd, pipe in enumerate(pipes):
                os.dup2(pipe, fd)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            what = cwd
            os.chdir(cwd)
            what, status = argv[0], 127
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                status = 126
            os.write(2, b"nestvmm lab: cannot run %s: %s\n" % (what, os.fsencode(error.strerror or "")))
        finally:
            os._exit(status)

    def feed(self) -> bool:
        """Write pending input as far as the pipe takes it; true when the command took it all."""
        try:
            self.input = self.input[os.write(self.stdin, self.input) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:  # it does not read its input
            self.close_stdin()
            return False
        return not self.input

    def close_stdin(self) -> None:
        """Let the command see the end of its input."""
        if self.stdin >= 0:
            os.close(self.stdin)
        self.stdin, self.input = -1, b""

    def kill(self) -> None:
        """End it and, in a cgroup, everything that it started."""
        for send, target in ((signal.pidfd_send_signal, self.ended), (os.killpg, self._pid)):
            with suppress(ProcessLookupError):  # by descriptor too: a child just forked does not lead its group yet
                send(target, signal.SIGKILL)
        if self._cgroup:
            _write(f"{self._cgroup}/cgroup.kill", "1")

    def reap(self) -> int:
        """The exit status, 128 + signal when one ended it. What it left behind is killed."""
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self.kill()
        self.close_stdin()
        os.close(self.ended)
        return status if status >= 0 else 128 - status


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)


class Agent:
    """Serves one channel until it is closed."""

    def __init__(self, fd: int, cgroup: str | None) -> None:
        self._channel = Channel(fd)
        self._cgroup = cgroup
        self._command: Command | None = None

    def serve(self) -> None:
        """Answer frames and pass on output until the near end is gone."""
        self._channel.send(READY)
        try:
            while True:
                ready = self._wait()
                if self._command:
                    self._attend(self._command, ready)
                if self._channel.fd in ready:
                    self._channel.fill()
                    while frame := self._channel.take():
                        self._obey(*frame)
        finally:
            if self._command:
                self._command.kill()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self._channel.fd, select.POLLIN)
        if self._command:
            for fd in (self._command.stdout, self._command.stderr, self._command.ended):
                if fd >= 0:
                    poll.register(fd, select.POLLIN)
            if self._command.input:
                poll.register(self._command.stdin, select.POLLOUT)
        return {fd for fd, _ in poll.poll()}

    def _attend(self, command: Command, ready: set[int]) -> None:
        if command.input and command.stdin in ready and command.feed():
            self._channel.send(WANT)
        if command.stdout in ready:
            command.stdout = self._pass_on(STDOUT, command.stdout)
        if command.stderr in ready:
            command.stderr = self._pass_on(STDERR, command.stderr)
        if command.ended in ready:
            self._command = None
            status = command.reap()
            for kind, fd in ((STDOUT, command.stdout), (STDERR, command.stderr)):
                if fd >= 0:
                    self._drain(kind, fd)
            self._channel.send(EXIT, struct.pack("<i", status))

    def _pass_on(self, kind: int, fd: int) -> int:
        """Send what a pipe holds; -1 when it has ended and is closed, else `fd`."""
        data = os.read(fd, CHUNK)
        if data:
            self._channel.send(kind, data)
            return fd
        os.close(fd)
        return -1

    def _drain(self, kind: int, fd: int) -> None:
        """Send what is left in a pipe whose command is dead."""
        try:
            while fd >= 0:
                fd = self._pass_on(kind, fd)
        except BlockingIOError:  # a process that escaped the kill still holds it
            os.close(fd)

    def _obey(self, kind: int, payload: bytes) -> None:
        command = self._command
        if kind == RUN:
            self._command = Command(payload, self._cgroup)
            self._channel.send(WANT)
        elif kind == PING:
            self._channel.send(PONG)
        elif kind == KILL and command:
            command.kill()
        elif kind == STDIN and command and command.stdin >= 0:
            if payload:
                command.input = payload
            else:
                command.close_stdin()


def main() -> None:
    """`agent.py FD-OR-DEVICE [CGROUP]`: serve that channel."""
    where = sys.argv[1]
    fd = int(where) if where.isdecimal() else os.open(where, os.O_RDWR)
    os.set_inheritable(fd, False)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        Agent(fd, sys.argv[2] if len(sys.argv) > 2 else None).serve()


if __name__ == "__main__":
    main()
