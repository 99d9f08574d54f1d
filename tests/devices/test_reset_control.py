"""The reset control register, port 0xcf9."""

import pytest
from port_access import answer_write, read, write

from nestvmm.devices.reset_control import ResetControl
from nestvmm.x86.event import Result


def test_keeps_the_kind_of_reset() -> None:
    control = ResetControl()
    assert read(control, 0) == 0
    write(control, 0, 0xFB)
    assert read(control, 0) == 0x02


@pytest.mark.parametrize("value", [0x04, 0x06, 0x0E, 0xFF])
def test_resets(value: int) -> None:
    expected = Result.stopped(0, "the guest reset the machine through its reset control register")
    assert answer_write(ResetControl(), 0, bytes([value])) == expected
    assert answer_write(ResetControl(), 0, bytes([0x02, value])) == expected
