"""The debug-exit port: QEMU's `-device isa-debug-exit,iobase=0xf4,iosize=0x04` (hw/misc/debugexit.c)."""

from __future__ import annotations

from nestvmm.devices.device import RegisterDevice
from nestvmm.x86.event import Result

__all__ = ["DebugExit"]


class DebugExit(RegisterDevice):
    """A write of any size ends the run; a read gives 0.

    The exit status is the value v that was written, so 0 is success. A v above 255 does not fit, and must not become a
    success by losing its upper bits: it ends the run with 255, and the message names it. With `raw` the status is
    QEMU's: the low byte of 2 v + 1, never 0.
    """

    name = "debug exit"

    def __init__(self, raw: bool = False) -> None:
        self._raw = raw

    def read(self, offset: int, size: int) -> int:
        """Nothing to see."""
        return 0

    def write(self, offset: int, size: int, value: int) -> Result:
        """End the run."""
        if self._raw:
            return Result.stopped((value << 1 | 1) & 0xFF)
        if value > 0xFF:
            return Result.stopped(0xFF, f"the guest's exit value {value:#x} does not fit an exit status: it became 255")
        return Result.stopped(value)
