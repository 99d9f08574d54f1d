"""The least that a loop written in Python does: it enters the guest and looks at one field of each exit.

What calls handlers in Python is a loop in C (native/python/dispatch.c), and may be below that.

Nothing is decoded, looked up, counted or answered; the guest's instruction is as it is, or comes again.
"""

from __future__ import annotations

import os
from typing import Any

from nestvmm._native import lib
from nestvmm.errors import HostError

__all__ = ["python_loop"]


def python_loop(fd: int, run: Any, exits: int) -> int:
    """Runs a vCPU for so many doorbells or port accesses and gives the TSC ticks that passed.

    fd, run:  the vCPU's descriptor and its cffi `struct kvm_run *`

    Raises HostError for any other exit.
    """
    ioctl, request, expected = lib.nv_ioctl_value, lib.KVM_RUN, lib.KVM_EXIT_IO
    start = lib.nv_ticks()
    for _ in range(exits):
        status = ioctl(fd, request, 0)
        if status:
            raise HostError(f"the bare loop in Python failed: {os.strerror(-status)}")
        if run.exit_reason != expected:
            raise HostError(f"the bare loop in Python failed: KVM exit {run.exit_reason}")
    return int(lib.nv_ticks() - start)
