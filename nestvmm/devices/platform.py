"""The machine that L0 offers: every device at its place."""

from __future__ import annotations

from nestvmm.devices.bus import Bus
from nestvmm.devices.cmos import Cmos
from nestvmm.devices.debug_exit import DebugExit
from nestvmm.devices.debugcon import DebugConsole
from nestvmm.devices.device import Window
from nestvmm.devices.fw_cfg import FwCfg
from nestvmm.devices.i8042 import COMMAND, DATA, I8042
from nestvmm.devices.ignore import Ignore
from nestvmm.devices.pci_address import PciAddress
from nestvmm.devices.pm_timer import PmTimer
from nestvmm.devices.reset_control import ResetControl
from nestvmm.devices.uart import Uart
from nestvmm.x86 import layout

__all__ = ["Platform", "platform"]


class Platform:
    """The devices of one machine; a context manager that frees the C behind them. `platform` makes it."""

    def __init__(self, bus: Bus, uart: Uart, debug_console: DebugConsole) -> None:
        self.bus = bus
        self.uart = uart
        self._debug_console = debug_console

    def __enter__(self) -> Platform:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the devices. No vCPU may run with them any more."""
        self.uart.close()

    def receive(self, data: bytes) -> int:
        """Type at the serial console: gives how many bytes fitted, the rest is the caller's to send later.

        From any thread.
        """
        return self.uart.receive(data)

    @property
    def lost(self) -> int:
        """Bytes of guest output that stdout did not take."""
        return self.uart.lost + self._debug_console.lost


def platform(
    *,
    ram: int,
    stdout: int,
    vm: int = -1,
    irqchip: bool = False,
    command_line: bytes = b"",
    initrd: bytes | None = None,
    command_line_address: int = 0,
    initrd_address: int = 0,
    raw_exit_status: bool = False,
) -> Platform:
    """Build the devices of a machine.

    ram:              guest RAM in bytes
    stdout:           where the serial port's and the debug console's output goes, -1 to drop it
    vm, irqchip:      the VM's descriptor, and whether it has an in-kernel irqchip for the serial port's interrupt line
    command_line, initrd, *_address: what fw_cfg offers, and where the loader put it (0: nowhere)
    raw_exit_status:  the debug-exit port follows QEMU's rule
    """
    bus = Bus()
    uart = Uart(stdout, vm if irqchip else -1)
    debug_console = DebugConsole(stdout)
    i8042 = I8042()
    fw_cfg = FwCfg(
        ram,
        command_line=command_line,
        initrd=initrd or b"",
        command_line_address=command_line_address,
        initrd_address=initrd_address,
    )
    bus.add(*layout.PORT_I8042_DATA, Window(i8042, DATA))
    bus.add(*layout.PORT_I8042_COMMAND, Window(i8042, COMMAND))
    bus.add(*layout.PORT_CMOS, Cmos(ram))
    bus.add(*layout.PORT_POST, Ignore("POST port"))
    bus.add(*layout.PORT_DEBUGCON, debug_console)
    bus.add(*layout.PORT_DEBUG_EXIT, DebugExit(raw_exit_status))
    bus.add(*layout.PORT_COM1, uart)
    bus.add(*layout.PORT_FW_CFG, fw_cfg)
    bus.add(*layout.PORT_PM_TIMER, PmTimer())
    bus.add(*layout.PORT_PCI_ADDRESS, PciAddress())
    bus.add(*layout.PORT_RESET_CONTROL, ResetControl())
    bus.add(*layout.PORT_PCI_DATA, Ignore("PCI data"))
    return Platform(bus, uart, debug_console)
