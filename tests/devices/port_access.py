"""Accesses as a guest makes them, for tests of devices."""

from nestvmm.devices import Device
from nestvmm.x86.event import Direction, Event, Outcome, Result
from nestvmm.x86.exit_reason import ExitReason


def answer_write(device: Device, offset: int, data: bytes, size: int = 1) -> Result:
    """OUT or OUTS: the device's whole answer."""
    count = len(data) // size
    value = int.from_bytes(data[:size], "little")
    event = Event(ExitReason.IO, 1, 0xDEAD, Direction.WRITE, size, count, value, data)
    return device.access(offset, event)


def write(device: Device, offset: int, value: int, size: int = 1) -> None:
    """OUT, to a device that takes it."""
    assert answer_write(device, offset, value.to_bytes(size, "little"), size) == Result.handled()


def read_string(device: Device, offset: int, count: int, size: int = 1) -> bytes:
    """INS, or IN when the count is 1."""
    result = device.access(offset, Event(ExitReason.IO, 1, 0xDEAD, Direction.READ, size, count))
    assert result.outcome is Outcome.HANDLED
    if count == 1:
        return result.value.to_bytes(8, "little")[:size]
    assert len(result.data) == size * count
    return result.data


def read(device: Device, offset: int, size: int = 1) -> int:
    """IN."""
    return int.from_bytes(read_string(device, offset, 1, size), "little")
