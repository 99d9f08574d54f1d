"""Signals that end a command in order: nothing is left behind.

Of a run, besides: the terminal is restored, files are complete, the account is printed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Terminated", "ended_by_signals", "raise_on_signals"]

_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGHUP)
_SIGNALS = (signal.SIGINT, *_FROM_OUTSIDE)


class Terminated(BaseException):
    """SIGTERM or SIGHUP came; as KeyboardInterrupt, it is no error that anything handles."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def raise_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise Terminated in the main thread, once; what was ignored stays ignored."""

    def end(number: int, _frame: object) -> None:
        # who is impatient is taken at his word
        for one in _FROM_OUTSIDE:
            signal.signal(one, signal.SIG_DFL)
        raise Terminated(number)

    for number in _FROM_OUTSIDE:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


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
