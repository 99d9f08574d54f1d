"""The keyboard controller with nothing plugged in; its real use here is to reset the machine.

An Intel 8042 as in IBM's PS/2 technical reference ("Keyboard and auxiliary device controller"), as far as Linux's
drivers/input/serio/i8042.c probes it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from nestvmm.devices.device import ByteDevice
from nestvmm.devices.reset import reset
from nestvmm.x86.event import HANDLED, Result

__all__ = ["COMMAND", "DATA", "I8042"]

DATA: Final = 0
COMMAND: Final = 4

# The status register: a byte waits; self-test passed; the last write was a command; the keyboard is not locked.
OUTPUT_FULL: Final = 0x01
SYSTEM: Final = 0x04
LAST_WAS_COMMAND: Final = 0x08
UNLOCKED: Final = 0x10

# The output port: bit 0 is the processor's reset line (low resets), bit 1 gates A20.
NOT_RESET: Final = 0x01
A20: Final = 0x02


class Command(IntEnum):
    """What the command port takes; the pulses of 0xf0 to 0xff are apart."""

    READ_MODE = 0x20
    WRITE_MODE = 0x60
    DISABLE_AUX = 0xA7
    ENABLE_AUX = 0xA8
    TEST_AUX = 0xA9
    SELF_TEST = 0xAA
    TEST_KEYBOARD = 0xAB
    DISABLE_KEYBOARD = 0xAD
    ENABLE_KEYBOARD = 0xAE
    READ_OUTPUT_PORT = 0xD0
    WRITE_OUTPUT_PORT = 0xD1
    WRITE_OUTPUT_BUFFER = 0xD2
    WRITE_AUX_BUFFER = 0xD3


# Commands that answer with a constant. The auxiliary port reports an error (clock stuck low): there is none.
_ANSWERS: Final = {Command.SELF_TEST: 0x55, Command.TEST_KEYBOARD: 0x00, Command.TEST_AUX: 0x01}

_TAKES_PARAMETER: Final = {
    Command.WRITE_MODE,
    Command.WRITE_OUTPUT_PORT,
    Command.WRITE_OUTPUT_BUFFER,
    Command.WRITE_AUX_BUFFER,
}


class I8042(ByteDevice):
    """Data at offset 0, status and commands at offset 4. It is never busy and raises no interrupt."""

    name = "keyboard controller"

    def __init__(self) -> None:
        self._mode = 0
        self._output_port = NOT_RESET | A20
        self._answer: int | None = None
        self._last_answer = 0
        self._parameter_of: int | None = None
        self._status = UNLOCKED

    def read_byte(self, offset: int) -> int:
        """The waiting byte (again, when none waits), or the status."""
        if offset == DATA:
            if self._answer is not None:
                self._last_answer, self._answer = self._answer, None
            return self._last_answer
        if offset == COMMAND:
            return self._status | (OUTPUT_FULL if self._answer is not None else 0)
        return super().read_byte(offset)

    def write_byte(self, offset: int, value: int) -> Result:
        """A command, its parameter, or a byte for the keyboard, which is not there to answer."""
        if offset == COMMAND:
            self._status |= LAST_WAS_COMMAND
            return self._command(value)
        if offset == DATA:
            self._status &= ~LAST_WAS_COMMAND
            command, self._parameter_of = self._parameter_of, None
            return self._parameter(command, value)
        return HANDLED

    def _command(self, command: int) -> Result:
        self._parameter_of = command if command in _TAKES_PARAMETER else None
        if command >= 0xF0:
            # the low four bits name the output port's lines that are not pulsed low
            return HANDLED if command & NOT_RESET else reset(self.name)
        if command == Command.READ_MODE:
            self._answer = self._mode
        elif command == Command.READ_OUTPUT_PORT:
            self._answer = self._output_port
        elif command in _ANSWERS:
            self._answer = _ANSWERS[Command(command)]
            if command == Command.SELF_TEST:
                self._status |= SYSTEM
        return HANDLED

    def _parameter(self, command: int | None, value: int) -> Result:
        if command == Command.WRITE_MODE:
            self._mode = value
            self._status = self._status & ~SYSTEM | value & SYSTEM
        elif command == Command.WRITE_OUTPUT_PORT:
            if not value & NOT_RESET:
                return reset(self.name)
            self._output_port = value
        elif command in {Command.WRITE_OUTPUT_BUFFER, Command.WRITE_AUX_BUFFER}:
            self._answer = value
        return HANDLED
