"""Programs that are measured, each a child of this process that does not outlive what it is for."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

__all__ = ["child", "finished"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program with nothing to read and its output in pipes; it is killed at the end of the context."""
    pipe = subprocess.PIPE
    made: list[subprocess.Popen[bytes]] = []
    try:
        with _undisturbed():
            made.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe))
        yield made[0]
    finally:
        for process in made:
            with process:
                process.kill()


def finished(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end, `timeout` seconds at most: subprocess.TimeoutExpired."""
    with child(command) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals whose handlers may raise come at the end: between fork and Popen's return they would lose the child."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda one, _: came.append(one))
        for number in _SIGNALS
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)
