"""Devices that are C: the flat table serves them directly; Python hypervisors use the same code through `access`."""

from __future__ import annotations

from typing import Final

from nestvmm._native import ffi, lib
from nestvmm.devices.device import Server, written
from nestvmm.x86.event import HANDLED, Direction, Event, Result

__all__ = ["NativeDevice"]

PAGE: Final = 4096  # the most that one exit of KVM moves


class NativeDevice:
    """A device whose accesses a C function serves."""

    name = "native device"

    def __init__(self, function: str, device: object) -> None:
        """Serve by `function`, an nv_serve_fn that native/ declares, with the cffi pointer `device`."""
        self._server: Server | None = Server(ffi.addressof(lib, function), device)
        self._serve = getattr(lib, function)
        self._data = ffi.new("uint8_t[]", PAGE)
        self._event = ffi.new("struct nv_event *")

    @property
    def server(self) -> Server:
        """The C function and its device; raises ValueError once the device is closed."""
        if self._server is None:
            raise ValueError(f"the {self.name} is closed")
        return self._server

    def access(self, offset: int, event: Event) -> Result:
        """Serve an event from Python. Not from two threads at once."""
        length = event.size * event.count
        if length > len(self._data):
            self._data = ffi.new("uint8_t[]", length)
        write = event.direction == Direction.WRITE
        if write:
            ffi.memmove(self._data, written(event), length)
        native = self._event
        native.data = self._data
        native.direction = event.direction
        native.size = event.size
        native.count = event.count
        if self._serve(self.server.device, offset, native) != lib.NV_HANDLED:
            return Result.declined()
        if write:
            return HANDLED
        if event.count == 1:
            return Result.read(native.value)
        return Result.read_bytes(ffi.buffer(self._data, length)[:])
