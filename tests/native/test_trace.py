"""The trace ring, its sites, and the thread that writes it."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from nestvmm._native import ffi, lib

SIZE = 4


class Ring:
    """A ring of SIZE records, with one site described unless a test adds others."""

    def __init__(self) -> None:
        self.records = ffi.new("struct nv_trace_record[]", SIZE)
        self.sites = ffi.new("struct nv_trace_site[]", lib.NV_TRACE_SITES)
        self.trace = ffi.new("struct nv_trace *", {"record": self.records, "sites": self.sites, "size": SIZE})
        self.texts: list[Any] = []

    def add(self, **fields: int) -> None:
        event = ffi.new("struct nv_event *", {"reason": lib.NV_REASON_IO, "ticks": 1010, **fields})
        lib.nv_trace_add(self.trace, event, 1040, 1100)

    def describe(self, text: bytes) -> None:
        record = self.records[self.trace.head % SIZE]
        self.texts.append(ffi.new("char[]", text))
        self.sites[record.site].text, self.sites[record.site].length = self.texts[-1], len(text)
        lib.nv_trace_described(self.trace)


@pytest.fixture
def ring() -> Ring:
    return Ring()


def test_the_first_event_of_a_site_waits_for_its_description(ring: Ring) -> None:
    ring.trace.rip = 0x1000
    ring.add(qualifier=1)
    assert (ring.trace.head, ring.trace.wanted, lib.nv_trace_waits(ring.trace)) == (0, 1, 1)
    ring.describe(b"x")
    assert (ring.trace.head, ring.trace.wanted, lib.nv_trace_waits(ring.trace)) == (1, 0, 0)
    ring.add(qualifier=2)
    assert (ring.trace.head, ring.trace.wanted) == (2, 0)


@pytest.mark.parametrize(
    "other", [{"direction": 1}, {"size": 4}, {"slot": 9}, {"raw": 7}, {"instruction_length": 1, "instruction": [0x90]}]
)
def test_what_makes_another_site(ring: Ring, other: dict[str, Any]) -> None:
    ring.trace.rip = 0x1000
    ring.add()
    ring.describe(b"x")
    ring.add(**other)
    assert ring.trace.wanted == 1
    ring.describe(b"y")
    ring.add(**other)
    assert ring.trace.wanted == 0


def test_another_rip_is_another_site(ring: Ring) -> None:
    for rip in 0x1000, 0x1001:
        ring.trace.rip = rip
        ring.add()
        assert ring.trace.wanted == 1
        ring.describe(b"x")


def test_records_are_whole_numbered_and_hold_no_pointer(ring: Ring) -> None:
    ring.trace.rip, ring.trace.entered, ring.trace.decoded, ring.trace.routed = 0x1000, 1000, 1020, 1030
    ring.trace.entries = 3
    ring.add(value=0x41, data=ffi.cast("uint8_t *", 0x1234))
    ring.describe(b"x")
    ring.add()
    first, second = ring.records[0:2]
    assert (first.event.ticks, first.event.value, first.event.data) == (1010, 0x41, ffi.NULL)
    names = ("entered", "decoded", "routed", "handled", "done", "rip", "sequence", "entries")
    assert [getattr(first, name) for name in names] == [1000, 1020, 1030, 1040, 1100, 0x1000, 0, 3]
    assert (second.sequence, second.entries, second.site) == (1, 0, first.site)


def test_a_full_ring_waits(ring: Ring) -> None:
    ring.add()
    ring.describe(b"x")
    for _ in range(SIZE - 1):
        assert not lib.nv_trace_waits(ring.trace)
        ring.add()
    assert lib.nv_trace_waits(ring.trace)
    ring.trace.tail = 1
    assert not lib.nv_trace_waits(ring.trace)


class Writer:
    """The writing thread on a file."""

    def __init__(self, ring: Ring, fd: int, opening: bytes = b"", closing: bytes = b"") -> None:
        if opening:
            os.write(fd, opening)
        self.closing = ffi.new("char[]", closing)
        fields = {"trace": ring.trace, "fd": fd, "offset": len(opening), "start": 1000, "ns": 2.0}
        self.c = ffi.new(
            "struct nv_trace_writer *", {**fields, "closing": self.closing, "closing_length": len(closing)}
        )
        self.status = 1
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        self.status = lib.nv_trace_write(self.c)

    def stop(self) -> int:
        self.c.stopping = 1
        self._thread.join(PATIENCE)
        return self.status


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "trace"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    yield path, fd
    os.close(fd)


def hole(code: int) -> bytes:
    return bytes([code])


def test_holes_are_filled(ring: Ring, file: tuple[Path, int]) -> None:
    path, fd = file
    trace = ring.trace
    trace.rip, trace.entered, trace.decoded, trace.routed, trace.entries = 0x1000, 1003, 1020, 1030, 2
    spans = [hole(lib.NV_HOLE_GUEST + n) for n in range(6)]
    spans += [hole(lib.NV_HOLE_GUEST + n + lib.NV_HOLE_IN_NS) for n in range(6)]
    codes = range(lib.NV_HOLE_SEQUENCE, lib.NV_HOLE_ENTRIES + 1)
    points = [hole(lib.NV_HOLE_AT_ENTERED + n) for n in range(3)]
    ring.add(qualifier=0xFEE00030, value=0x1FF, size=1, count=12345678, info=0, served=1)
    ring.describe(b" ".join([*map(hole, codes), *points, *spans]))
    assert Writer(ring, fd).stop() == 0
    plain = "0 1010 4276092976 0xfee00030 255 12345678 0 true 2"
    at = "0.006 0.020 0.060"
    assert path.read_text() == f"{plain} {at} 0.014 0.020 0.020 0.020 0.120 0.180 14 20 20 20 120 180"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0x0"), (9, "0x9"), (0x10, "0x10"), ((1 << 64) - 1, "0xffffffffffffffff")]
)
def test_hexadecimal(ring: Ring, file: tuple[Path, int], number: int, text: str) -> None:
    ring.add(qualifier=number)
    ring.describe(hole(lib.NV_HOLE_QUALIFIER_HEX))
    assert Writer(ring, file[1]).stop() == 0
    assert file[0].read_text() == text


def test_every_event_is_written_however_small_the_ring(ring: Ring, file: tuple[Path, int]) -> None:
    writer = Writer(ring, file[1])
    for number in range(1000):
        while lib.nv_trace_waits(ring.trace):
            lib.nv_trace_relieve(writer.c, SIZE // 2)
        ring.add(qualifier=number)
        if ring.trace.wanted:
            ring.describe(hole(lib.NV_HOLE_QUALIFIER) + b"\n")
    assert writer.stop() == 0
    assert file[0].read_text().split() == [str(number) for number in range(1000)]


def test_the_file_is_whole_at_any_time(ring: Ring, file: tuple[Path, int]) -> None:
    writer = Writer(ring, file[1], b"[0", b"]\n")
    for count in range(1, 30):
        ring.add(qualifier=count)
        if ring.trace.wanted:
            ring.describe(b"," + hole(lib.NV_HOLE_QUALIFIER))
        text = ""
        while len(text.split(",")) <= count:
            text = file[0].read_text()
        assert json.loads(text) == list(range(count + 1))
    assert writer.stop() == 0
    assert json.loads(file[0].read_text()) == list(range(30))


def fill_for_ever(fd: int) -> None:
    """As a process that is killed does: long events, as fast as they come."""
    ring = Ring()
    writer = Writer(ring, fd, b"[0", b"]\n")
    while True:
        while lib.nv_trace_waits(ring.trace):
            lib.nv_trace_relieve(writer.c, 0)
        ring.add()
        if ring.trace.wanted:
            ring.describe(b"," + b"1" * 8000)


@pytest.mark.parametrize("delay", range(20))
def test_the_file_is_whole_when_its_process_is_killed(file: tuple[Path, int], delay: int) -> None:
    """Whatever it is doing: a write, most often."""
    path, fd = file
    ended, held = os.pipe()
    child = os.fork()
    if not child:
        try:
            fill_for_ever(fd)
        finally:
            os._exit(1)
    os.close(held)
    while path.stat().st_size < 1 << 20:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    time.sleep(delay / 4000)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    # a write that has begun ends in a process of its own, which has the other end of the pipe, too
    assert os.read(ended, 1) == b""
    os.close(ended)
    text = path.read_bytes()
    assert text.startswith(b"[0,1")
    assert text.endswith(b"1]\n")
    assert {len(one) for one in text[3:-2].split(b",")} == {8000}


def test_a_pipe_is_closed_at_the_end(ring: Ring) -> None:
    reader, fd = os.pipe()
    writer = Writer(ring, fd, b"[0", b"]\n")
    ring.add()
    ring.describe(b",1")
    assert writer.stop() == 0
    os.close(fd)
    assert os.read(reader, 100) == b"[0,1]\n"
    os.close(reader)


def test_an_error_ends_the_writing_and_nobody_waits_for_it(ring: Ring) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = Writer(ring, fd)
    ring.add()
    ring.describe(b"x" * 8000)
    for _ in range(SIZE - 1):
        ring.add()
    lib.nv_trace_relieve(writer.c, 0)
    assert (writer.stop(), writer.c.error) == (-errno.ENOSPC, errno.ENOSPC)
    os.close(fd)
