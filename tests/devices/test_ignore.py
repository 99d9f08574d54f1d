"""Ports at which nothing happens."""

from port_access import answer_write, read_string

from nestvmm.devices.ignore import Ignore
from nestvmm.x86.event import Result


def test_writes_are_dropped_and_reads_give_all_ones() -> None:
    device = Ignore("POST port")
    assert device.name == "POST port"
    assert answer_write(device, 0, bytes(4096)) == Result.handled()
    assert read_string(device, 0, 1024, 4) == b"\xff" * 4096
    assert read_string(device, 7, 1, 2) == b"\xff\xff"
