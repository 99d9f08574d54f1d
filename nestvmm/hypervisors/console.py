"""A serial console at a hypervisor's level: a 16550 with interrupts."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from nestvmm.devices.uart import Uart
from nestvmm.errors import UsageError
from nestvmm.hypervisors.base import Guest, HandlerClaim, Hypervisor
from nestvmm.hypervisors.output import check_output
from nestvmm.x86.event import Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Console"]


class Console(Hypervisor):
    """Serves its guest a 16550 whose output is the run's standard output and whose input is the run's standard input.

    port:   the first of its eight ports (default 0x3f8, COM1)
    irq:    its interrupt line on the in-kernel irqchip (default 4); above an image there is none, and its guest polls
    output: descriptor that the output goes to (default 1)
    """

    console = True

    def __init__(self, port: int = 0x3F8, irq: int = 4, output: int = 1) -> None:
        if not 0 <= port <= 0xFFF8:
            raise UsageError(f"port {port:#x}: eight ports from there on are not within 0 to 0xffff")
        if not 0 <= irq <= 23:
            raise UsageError(f"irq {irq} is no line of the irqchip: 0 to 23")
        check_output(output)
        self._port = port
        self._irq: int | None = irq
        self._output = output
        self._line = False
        self._lock = threading.Lock()
        self._uart: Uart | None = None

    def start(self, guest: Guest) -> None:
        """Makes the UART."""
        super().start(guest)
        self._uart = Uart(self._output)

    def stop(self) -> None:
        """Frees the UART."""
        if self._uart is not None:
            self._uart.close()
            self._uart = None

    def claims(self) -> Iterable[HandlerClaim]:
        """Its eight ports."""
        yield ExitReason.IO, self._port, self._port + 7, None, self.access

    def access(self, event: Event) -> Result:
        """A register access of the guest."""
        if self._uart is None:
            return Result.declined()
        result = self._uart.access(event.qualifier - self._port, event)
        self._update_line(self._uart)
        return result

    @property
    def lost(self) -> int:
        """Bytes of output that its descriptor did not take."""
        return 0 if self._uart is None else self._uart.lost

    def receive(self, data: bytes) -> int:
        """Queues console input."""
        if self._uart is None:
            return 0
        taken = self._uart.receive(data)
        self._update_line(self._uart)
        return taken

    def _update_line(self, uart: Uart) -> None:
        # input arrives on another thread: who reads the line last must also set it last
        with self._lock:
            line = bool(uart.line)
            if line == self._line or self._irq is None:
                return
            self._line = line
            try:
                self.guest.line(self._irq, line)
            except ValueError:
                self._irq = None
