"""What a device is: something that answers accesses at offsets, and never learns where it was put."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from nestvmm.x86.event import HANDLED, Direction, Event, Outcome, Result

__all__ = ["ByteDevice", "Device", "RegisterDevice", "Server", "Window", "all_ones", "written"]


class Server(NamedTuple):
    """The C code behind a device: with it the flat table answers the device's accesses without entering Python."""

    serve: Any
    """An nv_serve_fn (native/table.h), as cffi gives it."""
    device: Any
    """The pointer that it takes; valid until the device is closed."""


class Device(Protocol):
    """One device, or the part of one that some range of ports reaches."""

    name: str
    """What messages call it."""

    @property
    def server(self) -> Server | None:
        """The C code that serves it, None when only `access` does."""

    def access(self, offset: int, event: Event) -> Result:
        """Answer one exit whose first byte lies `offset` bytes behind the start of the device's range.

        Whatever a guest does, this answers: it never raises, and its state is bounded. It ignores `event.qualifier`.
        """


def all_ones(size: int) -> int:
    """What `size` bytes read where nothing drives the bus."""
    return (1 << 8 * size) - 1


def written(event: Event) -> bytes:
    """All size * count bytes that a write moves."""
    length = event.size * event.count
    data = event.data or event.value.to_bytes(max(8, event.size), "little")
    return data[:length].ljust(length, b"\0")


class RegisterDevice:
    """A device of registers: it answers each element of an access by itself."""

    name = "device"
    server: Server | None = None

    def read(self, offset: int, size: int) -> int:
        """What one element of `size` bytes reads."""
        return all_ones(size)

    def write(self, offset: int, size: int, value: int) -> Result:
        """Take one element; anything but a handled result ends the access."""
        return HANDLED

    def access(self, offset: int, event: Event) -> Result:
        """Answer an access element by element: a string access is one to the same offset, count times."""
        size = event.size
        if event.direction != Direction.WRITE:
            if event.count == 1:
                return Result.read(self.read(offset, size))
            return Result.read_bytes(
                b"".join(self.read(offset, size).to_bytes(size, "little") for _ in range(event.count))
            )
        data = written(event)
        for at in range(0, len(data), size):
            result = self.write(offset, size, int.from_bytes(data[at : at + size], "little"))
            if result.outcome is not Outcome.HANDLED:
                return result
        return HANDLED


class ByteDevice(RegisterDevice):
    """A device of byte registers: a wider element is an access to each register that it covers, lowest first."""

    def read_byte(self, offset: int) -> int:
        """What the register at `offset` reads: 0 to 255; all ones where there is none."""
        return 0xFF

    def write_byte(self, offset: int, value: int) -> Result:
        """Write 0 to 255 to the register at `offset`; anything but a handled result ends the access."""
        return HANDLED

    def read(self, offset: int, size: int) -> int:
        """Read the registers that the element covers."""
        if size == 1:
            return self.read_byte(offset)
        return int.from_bytes(bytes(self.read_byte(offset + i) for i in range(size)), "little")

    def write(self, offset: int, size: int, value: int) -> Result:
        """Write the registers that the element covers."""
        for i in range(size):
            result = self.write_byte(offset + i, value >> 8 * i & 0xFF)
            if result.outcome is not Outcome.HANDLED:
                return result
        return HANDLED


class Window:
    """Part of a device, from `base` on: for a device whose ports do not lie side by side."""

    server: Server | None = None

    def __init__(self, device: Device, base: int) -> None:
        self.name = device.name
        self._device = device
        self._base = base

    def access(self, offset: int, event: Event) -> Result:
        """Pass the access on to the device."""
        return self._device.access(self._base + offset, event)
