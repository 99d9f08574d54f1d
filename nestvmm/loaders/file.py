"""Reading the user's files: whole, regular, and no larger than the guest's RAM."""

from __future__ import annotations

import os
import stat

from nestvmm.errors import ImageError, UsageError
from nestvmm.loaders.room import in_bytes

__all__ = ["read_file"]


def read_file(path: str, ram_size: int, what: str = "image") -> bytes:
    """The bytes of a regular file; UsageError if it cannot be read, ImageError if empty or larger than `ram_size`."""
    try:
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{what} {path}: not a regular file; copy it to one")
            if status.st_size > ram_size:
                raise ImageError(
                    f"{what} {path}: {in_bytes(status.st_size)}, more than the guest's RAM of {in_bytes(ram_size)}: "
                    "give it more with -m, or strip the file"
                )
            data = file.read(status.st_size)
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror or error}") from None
    except ValueError:
        raise UsageError(f"{what} {path!r}: a file name cannot hold NUL") from None
    except MemoryError:
        raise ImageError(f"{what} {path}: too large for this host's memory") from None
    if not data:
        raise ImageError(f"{what} {path}: is empty")
    return data
