"""A debug console at a hypervisor's level."""

from __future__ import annotations

import os
from collections.abc import Iterable

from nestvmm.hypervisors.base import HandlerClaim, Hypervisor
from nestvmm.x86.event import HANDLED, Direction, Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["DebugConsole"]

# QEMU's isa-debugcon answers reads with this (hw/char/debugcon.c)
_READBACK = 0xE9


class DebugConsole(Hypervisor):
    """QEMU's isa-debugcon: bytes written to its port are output; reads answer 0xe9, so a guest can tell it is there.

    port:   its port (default 0xe9)
    output: descriptor that the output goes to (default 1)
    """

    def __init__(self, port: int = 0xE9, output: int = 1) -> None:
        self._port = port
        self._output = output

    def claims(self) -> Iterable[HandlerClaim]:
        """Its port."""
        yield ExitReason.IO, self._port, self._port, None, self.access

    def access(self, event: Event) -> Result:
        """Output, or the read-back value."""
        if event.direction == Direction.WRITE:
            os.write(self._output, event.data)
            return HANDLED
        return Result.read(_READBACK)
