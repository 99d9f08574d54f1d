"""What the thread that started a run does meanwhile: carries input to the console, and sees when the run must end."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable

__all__ = ["TIMED_OUT", "UNREAD", "attend"]

#: The exit status of a run that its timeout ended.
TIMED_OUT = 124
#: Of one whose output nobody read any more.
UNREAD = 128 + signal.SIGPIPE

_CHUNK = 4096
# How often input is offered again to a console whose queue was full, in seconds.
_RETRY = 0.02


def attend(
    done: int, receive: Callable[[bytes], int], stdin: int | None, stdout: int | None, deadline: float | None
) -> int | None:
    """Waits until `done` is readable, and gives None; or TIMED_OUT or UNREAD.

    done:      a descriptor
    receive:   takes input and gives how many bytes fitted; the rest is offered again
    stdin:     a descriptor to read input from, until its end
    stdout:    a descriptor to watch: UNREAD when its reader is gone
    deadline:  TIMED_OUT at this time.monotonic()
    """
    poller = select.poll()
    poller.register(done, select.POLLIN)
    if stdout is not None:
        poller.register(stdout, 0)  # errors are reported without asking for them
    if stdin is not None:
        poller.register(stdin, select.POLLIN)
    pending = b""
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return TIMED_OUT
        if pending:
            left = _RETRY if left is None else min(left, _RETRY)
        ready = {fd for fd, _ in poller.poll(None if left is None else math.ceil(left * 1000))}
        if done in ready:
            return None
        if stdout in ready:
            return UNREAD
        if stdin is not None and stdin in ready:
            pending = _read(stdin)
            # a full console is tried again by the clock, and not each time that more input is there
            poller.unregister(stdin)
            if not pending:
                stdin = None
        if pending:
            pending = pending[receive(pending) :]
            if not pending and stdin is not None:
                poller.register(stdin, select.POLLIN)


def _read(fd: int) -> bytes:
    """What there is to read; empty at the end, or when it cannot be read (any more), like a terminal that hung up."""
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""
