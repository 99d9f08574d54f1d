"""Devices that are C: the flat table serves them directly; Python hypervisors use the same code through `access`."""

from __future__ import annotations

from nestvmm._native import ffi, lib
from nestvmm.devices.device import Server, written
from nestvmm.x86.event import HANDLED, Direction, Event, Result

__all__ = ["NativeDevice"]


class NativeDevice:
    """A device whose accesses a C function serves."""

    name = "native device"

    def __init__(self, function: str, device: object) -> None:
        """Serve by `function`, an nv_serve_fn that native/ declares, with the cffi pointer `device`."""
        self._server: Server | None = Server(ffi.addressof(lib, function), device)
        self._serve = getattr(lib, function)
        self._event = ffi.new("struct nv_event *")

    @property
    def server(self) -> Server:
        """The C function and its device; raises ValueError once the device is closed."""
        if self._server is None:
            raise ValueError(f"the {self.name} is closed")
        return self._server

    def access(self, offset: int, event: Event) -> Result:
        """Serve an event from Python. Not from two threads at once."""
        server = self.server
        write = event.direction == Direction.WRITE
        data = bytearray(written(event) if write else event.size * event.count)
        native = self._event
        native.qualifier = event.qualifier
        native.value = event.value
        native.direction = event.direction
        native.size = event.size
        native.count = event.count
        with ffi.from_buffer(data) as lent:
            native.data = ffi.cast("uint8_t *", lent)
            outcome = self._serve(server.device, offset, native)
            native.data = ffi.NULL
        if outcome != lib.NV_HANDLED:
            return Result.declined()
        return HANDLED if write else Result.read_bytes(bytes(data))
