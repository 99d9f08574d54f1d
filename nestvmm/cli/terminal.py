"""The user's terminal, or whatever standard input is, while a guest has its console on it."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["console_input"]


@contextmanager
def console_input(stdin: int) -> Iterator[int | None]:
    """Gives the descriptor to read the guest's console input from; None when there is none to read.

    A terminal passes keys one by one, without local echo, until the end; Ctrl-C still ends the run. One in whose
    background we run is not touched: reading it would stop this process. What was typed before stays to be read, and
    neither end waits for the terminal to have shown all output: nobody may be reading it.
    """
    try:
        os.fstat(stdin)
    except OSError:
        yield None
        return
    if not os.isatty(stdin):
        yield stdin
        return
    if not _in_foreground(stdin):
        yield None
        return
    before = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin, termios.TCSANOW)
        yield stdin
    finally:
        with suppress(termios.error):  # it may have hung up
            termios.tcsetattr(stdin, termios.TCSANOW, before)


def _in_foreground(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
