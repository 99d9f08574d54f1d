"""What a guest's reset of the machine does: it ends the run, as `qemu -no-reboot` does."""

from __future__ import annotations

from nestvmm.x86.event import Result

__all__ = ["reset"]


def reset(through: str) -> Result:
    """End the run with status 0: a guest that asked for a reset did not die."""
    return Result.stopped(0, f"the guest reset the machine through its {through}")
