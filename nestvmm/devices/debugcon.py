"""QEMU's debug console, `-device isa-debugcon,iobase=0xe9` (hw/char/debugcon.c): native/debugcon.c, for Python."""

from __future__ import annotations

from nestvmm._native import ffi
from nestvmm.devices.native import NativeDevice

__all__ = ["DebugConsole"]


class DebugConsole(NativeDevice):
    """One port: a byte written goes to `out_fd` (-1: dropped) at once, a read gives 0xe9, by which guests detect it."""

    name = "debug console"

    def __init__(self, out_fd: int) -> None:
        self._debugcon = ffi.new("struct nv_debugcon *", {"out": out_fd})
        super().__init__("nv_debugcon_serve", self._debugcon)

    @property
    def lost(self) -> int:
        """Bytes that out_fd did not take."""
        return int(self._debugcon.lost)
