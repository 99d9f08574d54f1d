"""Signals that end a run in order: the terminal is restored, files are complete, the account is printed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ended_by_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals(stop: Callable[[], None]) -> Iterator[list[signal.Signals]]:
    """Calls `stop` for each of SIGINT, SIGTERM and SIGHUP; gives those that came. Ignored ones stay ignored."""
    caught: list[signal.Signals] = []

    def catch(number: int, _frame: object) -> None:
        caught.append(signal.Signals(number))
        stop()

    before = {}
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            # who is impatient while the end is being reported is taken at his word
            signal.signal(number, signal.SIG_DFL if caught else handler)
