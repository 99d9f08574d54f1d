"""The debug console: output exact, and nothing but its one port."""

import os

from port_access import answer_write, read, read_string, write

from nestvmm.devices import DebugConsole
from nestvmm.x86.event import Direction, Event, Result
from nestvmm.x86.exit_reason import ExitReason


def test_output_reaches_the_descriptor() -> None:
    reader, writer = os.pipe()
    console = DebugConsole(writer)
    write(console, 0, ord("o"))
    assert answer_write(console, 0, b"ne string") == Result.handled()
    assert answer_write(console, 0, b" \0w\0", 2) == Result.handled()
    assert answer_write(console, 0, b"i\0\0\0", 4) == Result.handled()
    os.close(writer)
    assert os.read(reader, 100) == b"one string wi"
    assert console.lost == 0
    os.close(reader)


def test_reads_give_its_signature() -> None:
    console = DebugConsole(-1)
    assert read(console, 0) == 0xE9
    assert read_string(console, 0, 3) == b"\xe9\xe9\xe9"
    assert read(console, 0, 2) == 0xFFE9
    assert read_string(console, 0, 2, 4) == b"\xe9\xff\xff\xff" * 2


def test_lost_output_is_counted() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = DebugConsole(writer)
    answer_write(console, 0, b"gone")
    answer_write(console, 0, b"g\0o\0", 2)
    assert console.lost == 6
    os.close(writer)


def test_other_offsets_are_declined() -> None:
    assert DebugConsole(-1).access(1, Event(ExitReason.IO, 1, 0, Direction.READ, 1)) == Result.declined()
