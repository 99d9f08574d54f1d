"""Reading the user's files: regular ones, images no larger than the guest's RAM."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from nestvmm.errors import ImageError, UsageError
from nestvmm.loaders.room import in_bytes

__all__ = ["read_file", "regular_file"]


def read_file(path: str, ram_size: int, what: str = "image") -> bytes:
    """The bytes of a regular file; UsageError if it cannot be read, ImageError if empty or larger than `ram_size`."""
    with regular_file(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > ram_size:
            raise ImageError(
                f"{what} {path}: {in_bytes(size)}, more than the guest's RAM of {in_bytes(ram_size)}: "
                "give it more with -m, or strip the file"
            )
        try:
            data = file.read(size)
        except OSError as error:
            raise UsageError(f"{what} {path}: {error.strerror}") from None
        except MemoryError:
            raise ImageError(f"{what} {path}: too large for this host's memory") from None
    if not data:
        raise ImageError(f"{what} {path}: is empty")
    return data


def regular_file(path: str, what: str = "") -> BinaryIO:
    """A file, open for reading, which has an end. Raises UsageError for anything else, and what cannot be opened.

    what: stands before its name in messages
    """
    name = f"{what} {path}".lstrip()
    try:
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except ValueError:
        shown = name.replace("\0", "\\0")
        raise UsageError(f"{shown}: a file name cannot hold NUL") from None
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        os.close(file)
        raise UsageError(f"{name}: {'Is a directory' if stat.S_ISDIR(mode) else 'not a regular file; copy it to one'}")
    return os.fdopen(file, "rb")
