"""Asks a run of this user's, by its process's number, for its counters."""

from __future__ import annotations

import json
import os

from nestvmm.errors import UsageError
from nestvmm.stats.runtime import connect, folder, pids
from nestvmm.stats.snapshot import Snapshot

__all__ = ["Watched", "running"]

# A run that does not answer for so long has been stopped, or its machine has.
_PATIENCE = 10.0


def running() -> list[int]:
    """The processes of this user's that answer."""
    path = folder()
    found = []
    for pid in pids(path):
        connection = connect(path, pid)
        if connection is not None:
            connection.close()
            found.append(pid)
    return found


class Watched:
    """A connection to a run; a context manager. Raises UsageError if that process is no run of this user's."""

    def __init__(self, pid: int) -> None:
        connection = connect(folder(), pid)
        if connection is None:
            raise UsageError(f"{_why(pid)}; {_others()}")
        connection.settimeout(_PATIENCE)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._pid = pid

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()
        self._connection.close()

    def read(self) -> Snapshot | None:
        """Its counters now; None: it has ended. Raises UsageError when it does not answer as a run does."""
        try:
            self._connection.sendall(b"\n")
            line = self._lines.readline()
        except TimeoutError:
            raise UsageError(f"process {self._pid} does not answer: is it stopped?") from None
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        try:
            return Snapshot.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"process {self._pid} does not answer as this version of nestvmm does") from None


def _why(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return f"there is no process {pid}"
    except PermissionError:
        return f"process {pid} is another user's"
    return f"process {pid} is no `nestvmm run`"


def _others() -> str:
    found = running()
    return f"these are: {', '.join(map(str, found))}" if found else "none of this user's is running"
