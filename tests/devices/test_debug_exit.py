"""The debug-exit port: every value gives a status that cannot be mistaken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from port_access import answer_write, read

from nestvmm.devices.debug_exit import DebugExit
from nestvmm.x86.event import Outcome, Result


@pytest.mark.parametrize("value", [0, 1, 0x2A, 0xFF])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_value_is_the_status(value: int, size: int) -> None:
    assert answer_write(DebugExit(), 0, value.to_bytes(size, "little"), size) == Result.stopped(value)


@pytest.mark.parametrize(("value", "size"), [(0x100, 2), (0x1FF, 2), (0x80000000, 4)])
def test_a_value_that_does_not_fit_is_255_and_named(value: int, size: int) -> None:
    result = answer_write(DebugExit(), 0, value.to_bytes(size, "little"), size)
    assert (result.outcome, result.status) == (Outcome.STOPPED, 255)
    assert f"{value:#x}" in result.message


@pytest.mark.parametrize(("value", "status"), [(0, 1), (0x10, 33), (0x11, 35), (0x7F, 255), (0x80, 1), (0x100, 1)])
def test_raw_status_is_qemus(value: int, status: int) -> None:
    assert answer_write(DebugExit(raw=True), 0, value.to_bytes(4, "little"), 4) == Result.stopped(status)


@given(st.integers(1, 0xFFFFFFFF), st.booleans())
def test_no_failure_becomes_success(value: int, raw: bool) -> None:
    assert 1 <= answer_write(DebugExit(raw), 0, value.to_bytes(4, "little"), 4).status <= 255


def test_a_string_ends_at_its_first_element() -> None:
    assert answer_write(DebugExit(), 0, b"\x03\x04\x05") == Result.stopped(3)


def test_reads_give_0() -> None:
    assert read(DebugExit(), 0, 4) == 0
