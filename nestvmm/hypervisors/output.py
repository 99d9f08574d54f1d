"""The descriptors that stock hypervisors write their guest's output to."""

from __future__ import annotations

import fcntl
import os

from nestvmm.errors import UsageError

__all__ = ["check_output"]


def check_output(descriptor: int) -> None:
    """Raises UsageError unless the descriptor is open for writing."""
    try:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    except (OSError, ValueError, OverflowError):
        raise UsageError(f"output {descriptor}: no such descriptor is open; 1 is standard output") from None
    if mode == os.O_RDONLY:
        raise UsageError(f"output {descriptor}: that descriptor is open for reading only")
