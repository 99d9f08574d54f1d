"""The 16550A serial port, native/uart.c, for Python. National Semiconductor's PC16550D data sheet, section 8."""

from __future__ import annotations

import threading
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.devices.native import NativeDevice
from nestvmm.x86.layout import IRQ_COM1

__all__ = ["Uart"]


class Uart(NativeDevice):
    """A 16550A with FIFOs at offsets 0 to 7; a context manager.

    out_fd:  where transmitted bytes go at once, -1 to drop them; stays the caller's
    vm_fd:   the VM whose in-kernel irqchip has the interrupt line; -1: nobody drives it, its owner reads `line`
    irq:     the line's GSI

    A full 16-byte FIFO holds back the bytes behind it, 4,096 of them: nothing received overruns. When the output
    blocks, so does the guest. As in QEMU (hw/char/serial.c), and unlike on a PC's board, OUT2 does not gate the
    interrupt: images made for QEMU may leave it clear.
    """

    name = "UART"

    def __init__(self, out_fd: int, vm_fd: int = -1, irq: int = IRQ_COM1) -> None:
        self._uart: Any = lib.nv_uart_new(out_fd, vm_fd, irq)
        if self._uart == ffi.NULL:
            raise MemoryError
        self._closing = threading.Lock()
        super().__init__("nv_uart_serve", self._uart)

    def __enter__(self) -> Uart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free it. No vCPU may run with it any more."""
        with self._closing:
            if self._server is not None:
                self._server = None
                lib.nv_uart_free(self._uart)

    def receive(self, data: bytes) -> int:
        """Send bytes to the guest: gives how many fitted, the rest is the caller's to send later. From any thread."""
        with self._closing:
            return int(lib.nv_uart_receive(self.server.device, data, len(data)))

    @property
    def line(self) -> int:
        """The level of the interrupt line: 0 or 1."""
        return int(lib.nv_uart_line(self.server.device))

    @property
    def lost(self) -> int:
        """Transmitted bytes that out_fd did not take."""
        return int(lib.nv_uart_lost(self.server.device))
