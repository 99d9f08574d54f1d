"""Standard input to the guest's console: by a pipe, a file and a terminal, at L0's 16550 and at a level's."""

from __future__ import annotations

import os
import pty
import random
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import nestvmm, started
from machine_code import ECHO, LOOP, image, leave, say
from patience import PATIENCE

pytestmark = pytest.mark.kvm

END = b"\x04"
LEVELS = pytest.mark.parametrize(
    "levels",
    [[], ["--level", "console"], ["--level", "logger,limit=0", "--level", "console", "--level", "logger,limit=0"]],
    ids=["L0", "L1", "L2 of 4"],
)


@LEVELS
def test_what_is_typed_comes_back(tmp_path: Path, levels: list[str]) -> None:
    ended = nestvmm(*image(tmp_path, ECHO), *levels, stdin=b"hello\r\n\x00\xff" + END)
    assert (ended.status, ended.out, ended.err) == (0, b"hello\r\n\x00\xff", "")


@LEVELS
def test_64_kib_at_once_arrive_complete(tmp_path: Path, levels: list[str]) -> None:
    data = random.Random(1).randbytes(65536).replace(END, b"\x05")
    ended = nestvmm(*image(tmp_path, ECHO), *levels, stdin=data + END)
    assert (ended.status, ended.out == data, ended.err) == (0, True, "")


@LEVELS
def test_a_conversation_through_a_pipe(tmp_path: Path, levels: list[str]) -> None:
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started(*image(tmp_path, ECHO), *levels, **options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in b"first\n", b"second\n", END:
            process.stdin.write(line)
            process.stdin.flush()
            if line != END:
                assert process.stdout.readline() == line
        assert process.wait(PATIENCE) == 0


def test_the_end_of_input_does_not_end_the_run(tmp_path: Path) -> None:
    """The guest is not told: a serial line has no end. A poller of input would also burn a processor on it."""
    before = os.times()
    source = tmp_path / "input"
    source.write_bytes(b"some")
    with source.open("rb") as stdin, started(*image(tmp_path, ECHO), stdin=stdin, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"some"
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        assert (process.wait(PATIENCE), process.stdout.read()) == (143, b"")
    spent = os.times()
    assert spent.children_user + spent.children_system - before.children_user - before.children_system < 5


def test_no_input_for_a_guest_that_reads_none(tmp_path: Path) -> None:
    """More than fits into its queue waits, and the run ends all the same."""
    ended = nestvmm(*image(tmp_path, say(b"bye") + leave(0)), stdin=bytes(200_000))
    assert (ended.status, ended.out, ended.err) == (0, b"bye", "")
    assert nestvmm(*image(tmp_path, LOOP), "--timeout", 0.5, stdin=bytes(200_000)).status == 124


def test_standard_input_that_cannot_be_read(tmp_path: Path) -> None:
    unreadable = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    options = {"stdin": unreadable, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(*image(tmp_path, say(b"fine") + leave(0)), **options) as process:
        os.close(unreadable)
        assert process.communicate(timeout=PATIENCE) == (b"fine", b"")
        assert process.returncode == 0


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal: ours, and the one that a program has as its own."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


# Makes the terminal on descriptor 0 the session's own, with this process in its foreground.
CONTROLLING = (
    "python3",
    "-c",
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])",
)


def read_until(descriptor: int, wanted: bytes | re.Pattern[bytes]) -> bytes:
    """What comes, up to and with `wanted`."""
    got = b""
    end = time.monotonic() + PATIENCE
    while not re.search(re.escape(wanted) if isinstance(wanted, bytes) else wanted, got):
        ready, _, _ = select.select([descriptor], [], [], max(0, end - time.monotonic()))
        assert ready, f"{wanted!r} did not come, but {got!r}"
        got += os.read(descriptor, 1000)
    return got


@LEVELS
def test_a_conversation_on_a_terminal(tmp_path: Path, levels: list[str]) -> None:
    """Keys come one by one and are not echoed but by the guest; at the end the terminal is as it was."""
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        settings = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE, "wrapper": CONTROLLING}
        with started(*image(tmp_path, say(b"ready>") + ECHO), *levels, **settings) as process:
            read_until(ours, b"ready>")
            during = termios.tcgetattr(theirs)
            assert not during[3] & (termios.ICANON | termios.ECHO)
            assert during[3] & termios.ISIG
            for key in b"abc":
                os.write(ours, bytes([key]))
                assert read_until(ours, bytes([key])) == bytes([key])
            os.write(ours, END)
            assert process.wait(PATIENCE) == 0
        assert termios.tcgetattr(theirs) == before


def test_what_was_typed_ahead_is_not_lost(tmp_path: Path) -> None:
    with terminal() as (ours, theirs):
        os.write(ours, b"early\n")
        settings = {"stdin": theirs, "stdout": subprocess.PIPE, "wrapper": CONTROLLING}
        with started(*image(tmp_path, ECHO), **settings) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"early\n"
            os.write(ours, END)
            assert process.wait(PATIENCE) == 0


def test_a_terminal_that_hangs_up_ends_the_run(tmp_path: Path) -> None:
    """SIGHUP ends the run in order; where the terminal is not the session's own, only the input ends."""
    ours, theirs = pty.openpty()
    settings = {"stdin": theirs, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "wrapper": CONTROLLING}
    with started(*image(tmp_path, say(b"ready\n") + ECHO), **settings) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.close(theirs)
        assert process.stdout.readline() == b"ready\n"
        os.close(ours)
        assert process.wait(PATIENCE) == 129
        assert process.stderr.read() == b"nestvmm: ended by SIGHUP\n"


def test_a_terminal_in_whose_background_we_run_is_left_alone(tmp_path: Path) -> None:
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        os.write(ours, b"for the shell\n")
        with started(*image(tmp_path, LOOP), "--timeout", 0.5, stdin=theirs, stderr=subprocess.PIPE) as process:
            assert process.wait(PATIENCE) == 124
        assert termios.tcgetattr(theirs) == before
        assert os.read(theirs, 100) == b"for the shell\n"
