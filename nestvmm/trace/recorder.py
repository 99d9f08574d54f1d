"""Takes a run's events from the ring that the C run loop fills to a file, in one of two formats.

run loop ──record──> ring ──a thread in C──> file
    └──the first event of a site──> Python: what all events of that site have in common
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, Final, Protocol

from nestvmm._native import ffi, lib
from nestvmm.errors import HostError, UsageError
from nestvmm.kvm import HostMemory
from nestvmm.nesting import Clock, Tower
from nestvmm.nesting.memory import PAGE_SIZE
from nestvmm.trace.chrome import Chrome
from nestvmm.trace.jsonl import JsonLines
from nestvmm.trace.site import Site, SiteReader

__all__ = ["RING", "Format", "Recorder"]

#: Records that the ring holds before level n has to write them itself; a power of two.
RING = 1 << 18
_RECORD: Final = ffi.sizeof("struct nv_trace_record")
# KVM_SYNC_X86_REGS (api.rst, KVM_CAP_SYNC_REGS): the registers stand in kvm_run after each exit.
_SYNC_REGS: Final = 1
# What the clock must have seen for its scale to be good to 1e-5, in nanoseconds.
_SETTLED: Final = 10_000_000


class Format(Protocol):
    """How events are written."""

    #: What makes the file whole, behind the last line.
    closing: bytes

    @staticmethod
    def opening(tower: Tower) -> bytes:
        """What stands before the first event."""
        ...

    @staticmethod
    def line(site: Site) -> bytes:
        """What is written of each event of a site, with holes; see nestvmm.trace.text."""
        ...


class Recorder:
    """Writes every event of a run: Chrome's trace events to a file named *.json, else JSON lines.

    A context manager around the run, whose Runner calls `drain`. Memory is bounded: a file that takes no more makes
    level n wait, and no event is lost. The file is whole after each write, whatever ends the process.

    Raises UsageError if the file cannot be opened. `__exit__` raises HostError when it took not all.
    """

    def __init__(self, path: Path, tower: Tower, clock: Clock) -> None:
        self._path = path
        self._format: type[Format] = Chrome if path.suffix == ".json" else JsonLines
        self._sites = SiteReader(tower)
        self._ring_memory = HostMemory(RING * _RECORD + -RING * _RECORD % PAGE_SIZE)
        self._ring: Any = ffi.cast("struct nv_trace_record *", self._ring_memory.address)
        self._site_table: Any = ffi.new("struct nv_trace_site[]", lib.NV_TRACE_SITES)
        self._texts: dict[int, Any] = {}
        self._closing: Any = ffi.new("char[]", self._format.closing)
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise UsageError(f"trace file {path}: {error.strerror}") from None
        self._trace: Any = tower.engine.vcpu.trace
        self._writer: Any = ffi.new("struct nv_trace_writer *")
        self._thread = threading.Thread(target=lib.nv_trace_write, args=(self._writer,), name="trace", daemon=True)
        try:
            self._open(tower, clock)
        except OSError as error:
            self._file.close()
            raise HostError(f"trace file {path}: {error.strerror}") from None
        self._start(tower)

    def _open(self, tower: Tower, clock: Clock) -> None:
        opening = self._format.opening(tower)
        self._write(opening + (self._format.closing if self._seekable() else b""))
        writer = self._writer
        writer.trace = ffi.addressof(tower.engine.vcpu, "trace")
        writer.fd, writer.offset = self._file.fileno(), len(opening)
        writer.closing, writer.closing_length = self._closing, len(self._format.closing)
        time.sleep(max(0, _SETTLED - clock.age_ns()) / 1e9)
        writer.ns, writer.start = clock.ns_per_tick(), lib.nv_ticks()

    def _seekable(self) -> bool:
        try:
            os.lseek(self._file.fileno(), 0, os.SEEK_CUR)
        except OSError:
            return False
        return True

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _start(self, tower: Tower) -> None:
        run = tower.engine.vcpu.run
        if run != ffi.NULL:
            run.kvm_valid_regs |= _SYNC_REGS
        trace = self._trace
        trace.size, trace.sites = RING, self._site_table
        trace.head = trace.tail = trace.sequence = trace.wanted = trace.entries = 0
        trace.record = self._ring
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self._trace.wanted:
                self._describe()
        finally:
            # the writing thread may get no processor for long
            lib.nv_trace_relieve(self._writer, 0)
            self._writer.stopping = 1
            self._thread.join()
            self._trace.record = ffi.NULL
            self._ring_memory.close()
            self._file.close()
        if exception[0] is None:
            self._check()

    def drain(self) -> None:
        """Describes the site that the trace waits for, or waits for room; HostError when the file takes no more."""
        self._check()
        if self._trace.wanted:
            self._describe()
        else:
            lib.nv_trace_relieve(self._writer, RING * 7 // 8)

    def write(self) -> None:
        """Writes what the ring holds, between two runs."""
        lib.nv_trace_relieve(self._writer, 0)
        self._check()

    def _check(self) -> None:
        if self._writer.error:
            raise HostError(f"trace file {self._path}: {os.strerror(self._writer.error)}")

    def _describe(self) -> None:
        record = self._ring[self._trace.head % RING]
        if record.site in self._texts:
            # another site has its place: the writer may still need that one's text
            while self._trace.tail != self._trace.head and not self._writer.error:
                lib.nv_trace_relieve(self._writer, 0)
        line = self._format.line(self._sites.read(record))
        site = self._site_table[record.site]
        self._texts[record.site] = site.text = ffi.new("char[]", line)
        site.length = len(line)
        lib.nv_trace_described(ffi.addressof(self._trace))
