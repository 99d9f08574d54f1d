"""The 16550A against its data sheet, and against what Linux's 8250 driver asks of it."""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE
from port_access import answer_write, read, read_string, write

from nestvmm._native import lib
from nestvmm.devices import Uart
from nestvmm.x86.event import Direction, Event, Outcome, Result
from nestvmm.x86.exit_reason import ExitReason

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
FCR = IIR
RX, TX, LINE, MODEM = 1, 2, 4, 8
NO_INTERRUPT = 0x01
LOOP = 0x10


@pytest.fixture
def uart() -> Iterator[Uart]:
    with Uart(-1) as uart:
        yield uart


@contextmanager
def piped() -> Iterator[tuple[Uart, int]]:
    reader, writer = os.pipe()
    try:
        with Uart(writer) as uart:
            yield uart, reader
    finally:
        os.close(reader)
        os.close(writer)


def test_a_string_longer_than_a_page() -> None:
    with piped() as (uart, reader):
        assert answer_write(uart, DATA, bytes(range(256)) * 20) == Result.handled()
        assert os.read(reader, 10000) == bytes(range(256)) * 20
        assert read_string(uart, LSR, 5000) == b"\x60" * 5000


def test_registers_after_reset(uart: Uart) -> None:
    assert read_string(uart, DATA, 1) == b"\0"
    assert [read(uart, register) for register in range(1, 8)] == [0, 0x01, 0, 0, 0x60, 0xB0, 0]


def test_output_reaches_the_descriptor_in_order() -> None:
    with piped() as (uart, reader):
        write(uart, DATA, ord("h"))
        assert answer_write(uart, DATA, b"ello, world\n") == Result.handled()
        assert os.read(reader, 100) == b"hello, world\n"
        assert uart.lost == 0


def test_wide_output_goes_to_each_register_that_it_covers() -> None:
    with piped() as (uart, reader):
        write(uart, DATA, 0x01_41, 2)
        assert os.read(reader, 100) == b"A"
        assert read(uart, IER) == 0x01


def test_wide_access_ends_behind_the_scratch_register(uart: Uart) -> None:
    write(uart, SCR, 0x44332211, 4)
    assert read(uart, SCR) == 0x11
    assert read(uart, MSR, 4) == 0xFFFF11B0
    assert read_string(uart, SCR, 2, 2) == b"\x11\xff\x11\xff"


def test_offsets_behind_the_registers_are_declined(uart: Uart) -> None:
    event = Event(ExitReason.IO, 1, 0, Direction.READ, 1)
    assert uart.access(8, event) == Result.declined()


def test_an_event_that_moves_nothing_changes_nothing() -> None:
    with piped() as (uart, reader):
        for size, count in ((0, 1), (1, 0)):
            for offset in range(8):
                event = Event(ExitReason.IO, 1, 0, Direction.WRITE, size, count)
                assert uart.access(offset, event) == Result.handled()
        assert [read(uart, register) for register in range(8)] == [0, 0, 0x01, 0, 0, 0x60, 0xB0, 0]
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)


def test_scratch_and_line_control_keep_all_bits(uart: Uart) -> None:
    for value in (0x55, 0xAA, 0xFF, 0x00):
        write(uart, SCR, value)
        assert read(uart, SCR) == value
        write(uart, LCR, value)
        assert read(uart, LCR) == value


def test_interrupt_enable_keeps_four_bits_and_modem_control_five(uart: Uart) -> None:
    write(uart, IER, 0xFF)
    assert read(uart, IER) == 0x0F
    write(uart, MCR, 0xFF)
    assert read(uart, MCR) == 0x1F


def test_divisor_latch_hides_data_and_interrupt_enable() -> None:
    with piped() as (uart, reader):
        write(uart, IER, RX)
        uart.receive(b"k")
        write(uart, LCR, 0x83)
        assert (read(uart, DATA), read(uart, IER)) == (1, 0)
        write(uart, DATA, 0x0C)
        write(uart, IER, 0x02)
        assert (read(uart, DATA), read(uart, IER)) == (0x0C, 0x02)
        write(uart, LCR, 0x03)
        assert (read(uart, DATA), read(uart, IER)) == (ord("k"), RX)
        write(uart, DATA, ord("x"))
        assert os.read(reader, 100) == b"x"


def test_received_bytes_come_in_order_through_fifo_and_backlog(uart: Uart) -> None:
    sent = bytes(range(100))
    assert uart.receive(sent) == 100
    assert read(uart, LSR) == 0x61
    assert read_string(uart, DATA, 100) == sent
    assert read(uart, LSR) == 0x60
    assert read(uart, DATA) == 0


def test_receive_gives_how_many_bytes_fitted(uart: Uart) -> None:
    write(uart, FCR, 0x01)
    assert uart.receive(bytes(5000)) == 16 + 4096
    assert uart.receive(b"x") == 0
    read(uart, DATA)
    assert uart.receive(b"xy") == 1
    assert read(uart, LSR) == 0x61, "nothing from the host overruns"


def test_clearing_the_fifo_takes_what_arrived_and_not_what_is_on_the_wire(uart: Uart) -> None:
    write(uart, FCR, 0x01)
    uart.receive(b"0123456789")
    write(uart, FCR, 0x03)
    assert read(uart, LSR) == 0x60
    uart.receive(b"0123456789abcdef" + b"later")
    write(uart, FCR, 0x03)
    assert read_string(uart, DATA, 5) == b"later"


def test_enabling_or_disabling_the_fifo_clears_it(uart: Uart) -> None:
    uart.receive(b"a")
    write(uart, FCR, 0x01)
    assert read(uart, LSR) == 0x60
    uart.receive(b"bc")
    write(uart, FCR, 0x00)
    assert read(uart, LSR) == 0x60


def test_clear_bit_without_enable_bit_is_not_programmed(uart: Uart) -> None:
    uart.receive(b"a")
    write(uart, FCR, 0x02)
    assert read(uart, DATA) == ord("a")


def test_receive_interrupt(uart: Uart) -> None:
    uart.receive(b"ab")
    assert (uart.line, read(uart, IIR)) == (0, NO_INTERRUPT)
    write(uart, IER, RX)
    assert (uart.line, read(uart, IIR)) == (1, 0x04)
    assert (uart.line, read(uart, IIR)) == (1, 0x04), "reading IIR does not end it"
    read(uart, DATA)
    assert uart.line == 1
    read(uart, DATA)
    assert (uart.line, read(uart, IIR)) == (0, NO_INTERRUPT)
    uart.receive(b"c")
    assert uart.line == 1


@pytest.mark.parametrize(("select", "trigger"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_fifo_trigger_levels(uart: Uart, select: int, trigger: int) -> None:
    write(uart, FCR, select | 1)
    write(uart, IER, RX)
    if trigger > 1:
        uart.receive(bytes(trigger - 1))
        assert (uart.line, read(uart, IIR)) == (1, 0xCC), "below the level: character timeout"
    uart.receive(bytes(trigger))
    assert (uart.line, read(uart, IIR)) == (1, 0xC4)


def test_transmitter_interrupt(uart: Uart) -> None:
    write(uart, IER, TX)
    assert (uart.line, read(uart, IIR)) == (1, 0x02)
    assert (uart.line, read(uart, IIR)) == (0, NO_INTERRUPT), "reading it in IIR ended it"
    write(uart, IER, TX)
    assert uart.line == 0, "it was enabled before"
    write(uart, DATA, ord("x"))
    assert uart.line == 1
    write(uart, IER, 0)
    assert uart.line == 0
    write(uart, IER, TX)
    assert uart.line == 1


def test_interrupts_are_identified_by_priority(uart: Uart) -> None:
    write(uart, MCR, LOOP)
    write(uart, DATA, ord("a"))
    write(uart, DATA, ord("b"))
    write(uart, IER, RX | TX | LINE | MODEM)
    assert read(uart, IIR) == 0x06
    assert read(uart, LSR) == 0x63, "overrun"
    assert read(uart, IIR) == 0x04
    assert read(uart, DATA) == ord("b"), "the receiver buffer was overwritten"
    assert read(uart, IIR) == 0x02
    assert read(uart, IIR) == 0x00
    assert uart.line == 1
    assert read(uart, MSR) & 0x0F == 0x0B, "CTS, DSR and DCD fell when loopback began"
    assert (uart.line, read(uart, IIR)) == (0, NO_INTERRUPT)


@pytest.mark.parametrize("out2", [0, 8])
def test_interrupt_does_not_depend_on_out2(uart: Uart, out2: int) -> None:
    write(uart, MCR, out2)
    write(uart, IER, RX)
    uart.receive(b"a")
    assert uart.line == 1


def test_loopback_returns_output_and_cuts_the_wire() -> None:
    with piped() as (uart, reader):
        write(uart, FCR, 0x01)
        write(uart, MCR, LOOP)
        uart.receive(b"host")
        assert answer_write(uart, DATA, bytes(range(20))) == Result.handled()
        assert read(uart, LSR) == 0x63, "a full FIFO keeps its 16 bytes and reports the overrun"
        assert read(uart, LSR) == 0x61
        assert read_string(uart, DATA, 16) == bytes(range(16))
        assert read(uart, LSR) == 0x60
        write(uart, MCR, 0)
        assert read_string(uart, DATA, 4) == b"host"
        write(uart, DATA, ord("!"))
        assert os.read(reader, 100) == b"!"


@pytest.mark.parametrize(("control", "status"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)])
def test_loopback_connects_modem_control_to_modem_status(uart: Uart, control: int, status: int) -> None:
    write(uart, MCR, LOOP)
    read(uart, MSR)
    write(uart, MCR, LOOP | control)
    rising = 0 if control == 0x04 else status >> 4
    assert read(uart, MSR) == status | rising, "ring reports its trailing edge only"
    assert read(uart, MSR) == status
    write(uart, MCR, LOOP)
    assert read(uart, MSR) == status >> 4
    assert read(uart, MSR) == 0


def test_modem_interrupt_ends_when_modem_status_is_read(uart: Uart) -> None:
    write(uart, IER, MODEM)
    assert uart.line == 0
    write(uart, MCR, LOOP)
    assert (uart.line, read(uart, IIR)) == (1, 0x00)
    read(uart, MSR)
    assert uart.line == 0


def test_linux_autoconfig_finds_a_16550a(uart: Uart) -> None:
    """drivers/tty/serial/8250/8250_port.c, autoconfig() and autoconfig_16550a(), register access by register access."""
    write(uart, IER, 0x00)
    assert read(uart, IER) & 0x0F == 0x00
    write(uart, IER, 0x0F)
    assert read(uart, IER) & 0x0F == 0x0F
    write(uart, IER, 0x00)
    saved_mcr = read(uart, MCR)
    write(uart, MCR, LOOP | 0x0A)
    assert read(uart, MSR) & 0xF0 == 0x90
    write(uart, MCR, saved_mcr)
    write(uart, LCR, 0xBF)
    write(uart, FCR, 0)
    write(uart, LCR, 0)
    write(uart, FCR, 0x01)
    assert read(uart, IIR) & 0xC0 == 0xC0
    for mode in (0x80, 0xBF):
        write(uart, LCR, mode)
        assert read(uart, IIR) != 0, "no extended features register"
    write(uart, LCR, 0)
    status = read(uart, MCR)
    write(uart, MCR, status ^ LOOP)
    write(uart, LCR, 0xE0)
    assert (read(uart, IIR) ^ status) & LOOP == 0, "not a SuperIO chip"
    write(uart, LCR, 0)
    write(uart, MCR, status)
    write(uart, FCR, 0x01 | 0x20)
    assert read(uart, IIR) & 0xE0 == 0xC0, "no 64-byte FIFO"
    write(uart, IER, 0x40)
    assert read(uart, IER) & 0x40 == 0, "no UART unit enable"


def test_linux_startup_trusts_the_transmitter_interrupt(uart: Uart) -> None:
    """serial8250_do_startup(): the interrupt must come again when it is enabled again."""
    for _ in range(2):
        write(uart, IER, TX)
        assert read(uart, IIR) & NO_INTERRUPT == 0
        write(uart, IER, 0)


def fill(writer: int) -> None:
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)


@pytest.fixture
def kick_signal() -> int:
    """As native/vcpu.c has it: a handler that does nothing, and system calls that do not restart."""
    assert lib.nv_kick_init() == 0
    return signal.SIGRTMIN + 1


def wait_until_blocked(thread: threading.Thread) -> None:
    """Blocked in write or poll: /proc says that the thread sleeps, twice in a row."""
    sleeping = 0
    while sleeping < 5:
        state = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rsplit(") ", 1)[1][0]
        sleeping = sleeping + 1 if state == "S" else 0
        time.sleep(0.005)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_signal_ends_blocked_output_and_the_loss_is_counted(kick_signal: int, blocking: bool) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    fill(writer)
    os.set_blocking(writer, blocking)
    with Uart(writer) as uart:
        thread = threading.Thread(target=answer_write, args=(uart, DATA, b"lost"), daemon=True)
        thread.start()
        wait_until_blocked(thread)
        assert thread.is_alive()
        assert uart.receive(b"typed") == 5, "who types does not wait for who reads"
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, kick_signal)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert uart.lost == 4
        assert read_string(uart, DATA, 5) == b"typed"
    os.close(reader)
    os.close(writer)


def test_output_waits_for_a_slow_reader_of_a_non_blocking_pipe() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    sent = bytes(range(256)) * 64
    with Uart(writer) as uart:
        thread = threading.Thread(target=answer_write, args=(uart, DATA, sent))
        thread.start()
        got = b""
        while len(got) < len(sent):
            got += os.read(reader, 1000)
        thread.join(PATIENCE)
        assert got == sent
        assert uart.lost == 0
    os.close(reader)
    os.close(writer)


def test_output_without_a_reader_is_lost_and_counted() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with Uart(writer) as uart:
        assert answer_write(uart, DATA, b"gone") == Result.handled()
        assert uart.lost == 4
    os.close(writer)


def test_a_closed_uart_says_so() -> None:
    uart = Uart(-1)
    uart.close()
    uart.close()
    with pytest.raises(ValueError, match="the UART is closed"):
        uart.receive(b"a")
    with pytest.raises(ValueError, match="the UART is closed"):
        read(uart, LSR)
    with pytest.raises(ValueError, match="the UART is closed"):
        _ = uart.line


accesses = st.tuples(
    st.integers(0, 9),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 40),
    st.binary(min_size=160, max_size=160),
)


@given(st.lists(accesses, max_size=60))
def test_no_guest_confuses_it(stream: list[tuple[int, bool, int, int, bytes]]) -> None:
    with Uart(-1) as uart:
        for offset, is_write, size, count, data in stream:
            if is_write:
                result = answer_write(uart, offset, data[: size * count], size)
            else:
                result = uart.access(offset, Event(ExitReason.IO, 1, 0, Direction.READ, size, count))
            assert result.outcome is (Outcome.DECLINED if offset > 7 else Outcome.HANDLED)
            uart.receive(data[:count])
            status = read(uart, LSR)
            assert status & 0x9C == 0
            assert status & 0x60 == 0x60
            line = uart.line
            assert read(uart, IIR) & NO_INTERRUPT == 1 - line
        assert uart.receive(bytes(10000)) <= 4096 + 16
