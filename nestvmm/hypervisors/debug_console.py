"""A debug console at a hypervisor's level."""

from __future__ import annotations

from collections.abc import Iterable

from nestvmm.devices import debugcon
from nestvmm.errors import UsageError
from nestvmm.hypervisors.base import HandlerClaim, Hypervisor
from nestvmm.hypervisors.output import check_output
from nestvmm.x86.event import Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["DebugConsole"]


class DebugConsole(Hypervisor):
    """QEMU's isa-debugcon: bytes written to its port are output; reads answer 0xe9, so a guest can tell it is there.

    port:   its port (default 0xe9)
    output: descriptor that the output goes to (default 1)
    """

    def __init__(self, port: int = 0xE9, output: int = 1) -> None:
        if not 0 <= port <= 0xFFFF:
            raise UsageError(f"port {port:#x} is not within 0 to 0xffff")
        check_output(output)
        self._port = port
        self._device = debugcon.DebugConsole(output)

    def claims(self) -> Iterable[HandlerClaim]:
        """Its port."""
        yield ExitReason.IO, self._port, self._port, None, self.access

    def access(self, event: Event) -> Result:
        """Output, or the read-back value."""
        return self._device.access(0, event)

    @property
    def lost(self) -> int:
        """Bytes of output that its descriptor did not take."""
        return self._device.lost
