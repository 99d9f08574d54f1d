"""Ports at which nothing happens but time passes: native/ignore.c, for Python.

Port 0x80 is one: a PC shows the codes of its power-on self-test there, and Linux writes it to wait (arch/x86/kernel/
io_delay.c).
"""

from __future__ import annotations

from nestvmm._native import ffi
from nestvmm.devices.native import NativeDevice

__all__ = ["Ignore"]


class Ignore(NativeDevice):
    """Reads give all ones, writes are dropped, and neither enters Python."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__("nv_ignore_serve", ffi.NULL)
