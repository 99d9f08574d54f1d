"""Reports a run's rates at an interval, in a thread of its own."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nestvmm.errors import HostError, UsageError
from nestvmm.stats.form import json_line, prometheus
from nestvmm.stats.snapshot import Meter, Rates, Snapshot

__all__ = ["INTERVALS", "Reporter", "Sink", "json_lines", "prometheus_file"]

#: The shortest and the longest interval, in seconds.
INTERVALS: Final = (0.05, 86_400.0)

Sink = Callable[[Rates], None]


class Reporter:
    """A context manager around a run: reports each `interval` seconds, and once at the end.

    Raises UsageError for an interval that is out of range. A sink that raises OSError ends the reporting; `__exit__`
    raises HostError then.
    """

    def __init__(self, meter: Meter, interval: float, sinks: list[Sink]) -> None:
        least, most = INTERVALS
        if not least <= interval <= most:
            raise UsageError(f"--stats-interval {interval:g}: give {least:g} to {most:g} seconds")
        self._meter = meter
        self._interval = interval
        self._sinks = sinks
        self._before: Snapshot | None = None
        self._error: OSError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stats", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise HostError(f"statistics: {self._error.filename or ''}: {self._error.strerror}") from None

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._interval):
                self._report()
            self._report()
        except OSError as error:
            self._error = error

    def _report(self) -> None:
        now = self._meter.read()
        rates = Rates.between(self._before, now)
        self._before = now
        for sink in self._sinks:
            sink(rates)


@contextmanager
def json_lines(path: Path) -> Iterator[Sink]:
    """A line for each report, while the context lasts. Raises UsageError if the file cannot be opened."""
    try:
        # without a buffer, so that an error is its own line's
        file = path.open("wb", buffering=0)
    except OSError as error:
        raise UsageError(f"--stats-jsonl {path}: {error.strerror}") from None

    def write(rates: Rates) -> None:
        left = memoryview(json_line(rates).encode())
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    with file:
        yield write


def prometheus_file(path: Path) -> Sink:
    """The file has the last report, whole, at any time. Raises UsageError if it cannot be.

    Each report takes the place of the file, so that it must be one: a device would be gone.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"--stats-prometheus {path}: not a regular file; name one")
    if not path.parent.is_dir():
        raise UsageError(f"--stats-prometheus {path}: name a file in a folder that exists")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--stats-prometheus {path}: {os.strerror(errno.EACCES)}: a file is made beside it")

    def write(rates: Rates) -> None:
        name = None
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(prometheus(rates.now))
            # a collector runs as another user
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except OSError as error:
            if name is not None:
                with suppress(OSError):
                    Path(name).unlink()
            raise OSError(error.errno, error.strerror, str(path)) from None

    return write
