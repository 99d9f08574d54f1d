"""Lets a run be asked for its counters, once it has lasted: short runs do not load what that takes."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nestvmm.stats.snapshot import Meter

__all__ = ["AFTER", "served"]

#: Seconds after which a run can be asked.
AFTER = 0.2


@contextmanager
def served(meter: Meter) -> Iterator[None]:
    """Serves in a thread of its own, until the context's end."""
    done, at_the_end = os.pipe2(os.O_CLOEXEC)
    thread = threading.Thread(target=_serve, args=(meter, done), name="served", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(at_the_end)
        thread.join()
        os.close(done)


def _serve(meter: Meter, done: int) -> None:
    poller = select.poll()
    poller.register(done)
    if not poller.poll(AFTER * 1000):
        from nestvmm.stats.server import serve  # noqa: PLC0415 - see above

        serve(meter, done)
