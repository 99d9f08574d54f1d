"""Where the socket of a run is: $XDG_RUNTIME_DIR/nestvmm/PID, or a folder of its user's among the temporary files.

The folder is its user's alone. A run takes its socket away at its end; one that was killed leaves it behind, where
nobody answers: whoever finds such a socket removes it.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["connect", "folder", "open_folder", "pids", "sweep"]


def folder() -> Path:
    """The folder, which may be missing."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and Path(runtime).is_dir():
        return Path(runtime) / "nestvmm"
    return Path(tempfile.gettempdir()) / f"nestvmm-{os.getuid()}"


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """A short name for the folder, as a socket's has 107 bytes at most; OSError if it is missing or another user's."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise PermissionError(f"{path} is not this user's alone")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def pids(path: Path) -> list[int]:
    """The processes that have a socket there, alive or not."""
    with suppress(OSError):
        return sorted(int(name) for name in os.listdir(path) if name.isdecimal())  # noqa: PTH208 - names, not paths
    return []


def connect(path: Path, pid: int) -> socket.socket | None:
    """A connection to a run; None: it is none, or not this user's. Removes a socket that nobody answers."""
    try:
        with open_folder(path) as short:
            name = short / str(pid)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connection.connect(str(name))
            except ConnectionRefusedError:
                connection.close()
                name.unlink(missing_ok=True)
                return None
            except OSError:
                connection.close()
                raise
            return connection
    except OSError:
        return None


def sweep(path: Path) -> None:
    """Removes the sockets that nobody answers."""
    for pid in pids(path):
        connection = connect(path, pid)
        if connection is not None:
            connection.close()
