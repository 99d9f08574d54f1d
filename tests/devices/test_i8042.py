"""The keyboard controller: it answers Linux's probe, never seems busy, and resets."""

import pytest
from port_access import answer_write, read, read_string, write

from nestvmm.devices.i8042 import COMMAND, DATA, I8042
from nestvmm.x86.event import Outcome, Result

OUTPUT_FULL, INPUT_FULL = 0x01, 0x02


@pytest.fixture
def controller() -> I8042:
    return I8042()


def ask(controller: I8042, command: int) -> int:
    write(controller, COMMAND, command)
    assert read(controller, COMMAND) & OUTPUT_FULL
    return read(controller, DATA)


def test_nothing_waits_and_it_is_not_busy(controller: I8042) -> None:
    assert read(controller, COMMAND) == 0x10


@pytest.mark.parametrize(("command", "answer"), [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x01), (0x20, 0x00), (0xD0, 0x03)])
def test_commands_with_an_answer(controller: I8042, command: int, answer: int) -> None:
    assert ask(controller, command) == answer
    assert read(controller, COMMAND) & (OUTPUT_FULL | INPUT_FULL) == 0
    assert read(controller, DATA) == answer, "the buffer keeps its last byte"


def test_mode_is_kept(controller: I8042) -> None:
    write(controller, COMMAND, 0x60)
    assert read(controller, COMMAND) == 0x18
    write(controller, DATA, 0x47)
    assert ask(controller, 0x20) == 0x47
    assert read(controller, COMMAND) == 0x1C


def test_self_test_sets_the_system_flag(controller: I8042) -> None:
    ask(controller, 0xAA)
    assert read(controller, COMMAND) == 0x1C


def test_linux_finds_no_mouse(controller: I8042) -> None:
    """i8042_check_aux(): the loop test's byte must come with the AUX bit, or the AUX test must pass."""
    write(controller, COMMAND, 0xD3)
    write(controller, DATA, 0x5A)
    assert read(controller, COMMAND) & 0x21 == OUTPUT_FULL
    assert read(controller, DATA) == 0x5A
    assert ask(controller, 0xA9) not in {0x00, 0xFA, 0xFF}


def test_a_byte_for_the_keyboard_gets_no_answer(controller: I8042) -> None:
    write(controller, DATA, 0xF2)
    assert read(controller, COMMAND) == 0x10


def test_a20_is_kept_in_the_output_port(controller: I8042) -> None:
    write(controller, COMMAND, 0xD1)
    write(controller, DATA, 0xDF)
    assert ask(controller, 0xD0) == 0xDF


@pytest.mark.parametrize("command", [0xF0, 0xFE])
def test_pulsing_the_reset_line_resets(controller: I8042, command: int) -> None:
    result = answer_write(controller, COMMAND, bytes([command]))
    assert result == Result.stopped(0, "the guest reset the machine through its keyboard controller")


@pytest.mark.parametrize("command", [0xF1, 0xFF, 0xFD])
def test_pulsing_other_lines_does_not(controller: I8042, command: int) -> None:
    assert answer_write(controller, COMMAND, bytes([command])) == Result.handled()


def test_lowering_the_reset_line_resets(controller: I8042) -> None:
    write(controller, COMMAND, 0xD1)
    assert answer_write(controller, DATA, b"\x02").outcome is Outcome.STOPPED


def test_a_parameter_belongs_to_the_last_command(controller: I8042) -> None:
    write(controller, COMMAND, 0xD1)
    write(controller, COMMAND, 0xAE)
    assert answer_write(controller, DATA, b"\x00") == Result.handled()


def test_between_its_ports_is_nothing(controller: I8042) -> None:
    assert read_string(controller, 1, 3) == b"\xff\xff\xff"
    write(controller, 1, 0xFE)
    assert read(controller, COMMAND) == 0x10
