"""A guest that does nothing but one instruction, at the top of a tower; one batch of it is one sample.

    again:  mov esi, TRIPS
            out START, al        the hypervisor that keeps the time takes this
    next:   in al, dx            the round trip that is measured, with the loop around it; or CPUID of leaf 0
            dec esi
            jnz next
            out END, al          and this, which ends the run
            jmp again

The bare loop runs the same guest on the same vCPU from one doorbell to the next.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.bench.python_loop import python_loop
from nestvmm.errors import HostError
from nestvmm.hypervisors import Hypervisor, on, on_io
from nestvmm.nesting import GuestSpec, LevelSpec, Runner, Tower, TowerSpec
from nestvmm.x86.event import Direction, Event, Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.layout import PORT_POST

__all__ = ["Answering", "AnsweringCpuid", "Course", "Timekeeper"]

_START = 0xE0
_END = 0xE1
# L0 has a device there that its C code serves; a hypervisor that claims it comes first.
_PORT = PORT_POST[0]
_ADDRESS = 0x100000
_MEMORY = 4 << 20
_TIMEOUT = 60.0
_READ = b"\xec"  # in al, dx
_CPUID = b"\x31\xc0\x0f\xa2"  # xor eax, eax; cpuid


class Timekeeper(Hypervisor):
    """Takes the time at the guest's doorbells; `ticks` is what passed between the last two."""

    def __init__(self) -> None:
        self._start = 0
        self.ticks = 0

    @on_io(_START, direction=Direction.WRITE)
    def begin(self, event: Event) -> Result:
        """The first read is next."""
        self._start = lib.nv_ticks()
        return Result.handled()

    @on_io(_END, direction=Direction.WRITE)
    def end(self, event: Event) -> Result:
        """The last read is done."""
        self.ticks = lib.nv_ticks() - self._start
        return Result.stopped(0)


class Answering(Timekeeper):
    """Answers the instruction, too."""

    @on_io(_PORT, direction=Direction.READ)
    def answer(self, event: Event) -> Result:
        """All ones, as the bare loop and L0's C code answer."""
        return Result.read(0xFF)


class AnsweringCpuid(Timekeeper):
    """Answers CPUID."""

    @on(ExitReason.CPUID)
    def zero(self, event: Event) -> Result:
        """Zero in RAX."""
        regs = self.guest.regs
        regs.rax = 0
        self.guest.set_regs(regs)
        return Result.handled()


class Course:
    """A tower `height` levels high whose guest does the instruction; a context manager.

    trips:    how often in a batch, 1 to 2**31 - 1
    handler:  the level whose Python hypervisor answers; 0: L0's C code
    engine:   whose exits they are: direct: port reads; else: CPUID

    `tower` is the open tower.
    """

    def __init__(self, trips: int, height: int = 2, handler: int = 0, engine: str = "direct") -> None:
        if not (1 <= trips < 1 << 31 and height >= 2 and 0 <= handler < height):
            raise ValueError(f"{trips} trips to level {handler} in a tower of height {height}: no such course")
        self.trips = trips
        keeper = handler or 1
        names = ["nestvmm.hypervisors:Hypervisor"] * (height - 1)
        answering = Answering if engine == "direct" else AnsweringCpuid
        names[keeper - 1] = f"nestvmm.bench.course:{answering.__name__ if handler else Timekeeper.__name__}"
        with tempfile.TemporaryDirectory(prefix="nestvmm-") as folder:
            image = Path(folder) / "course.bin"
            image.write_bytes(_machine_code(trips, _READ if engine == "direct" else _CPUID))
            guest = GuestSpec(image, address=_ADDRESS, memory=_MEMORY)
            levels = tuple(LevelSpec(name) for name in names)
            self.tower = Tower(TowerSpec(guest, levels, engine=engine, timeout=_TIMEOUT))
        found = self.tower.hypervisors[keeper - 1]
        if not isinstance(found, Timekeeper):
            raise TypeError(f"level {keeper} of a course is a {type(found).__name__}")
        self._keeper = found

    def __enter__(self) -> Course:
        return self

    def __exit__(self, *exception: object) -> None:
        self.tower.close()

    def batch(self) -> float:
        """TSC ticks of one round trip through the runner, averaged over a batch."""
        result = Runner(self.tower).run()
        if result.status:
            raise HostError(f"the benchmark's guest ended with status {result.status}: {result.message}")
        return self._keeper.ticks / self.trips

    def bare_batch(self) -> float:
        """The same by the bare loop of native/bench.c, also in a thread of its own."""
        return self._between_bells(_bare_loop)

    def python_batch(self) -> float:
        """Likewise by the bare loop in Python."""
        return self._between_bells(python_loop)

    def _between_bells(self, loop: Callable[[int, Any, int], int]) -> float:
        vcpu = self.tower.engine.vcpu

        def batch() -> float:
            # the runner's last kick may have come too late for its own run
            vcpu.run.immediate_exit = 0
            loop(vcpu.fd, vcpu.run, 1)
            return loop(vcpu.fd, vcpu.run, self.trips + 1) / self.trips

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(batch).result()


def _bare_loop(fd: int, run: Any, exits: int) -> int:
    ticks = ffi.new("uint64_t *")
    status = lib.nv_bench_bare(fd, run, exits, ticks)
    if status < 0:
        raise HostError(f"the bare KVM_RUN loop failed: {os.strerror(-status)}")
    return int(ticks[0])


def _machine_code(trips: int, instruction: bytes) -> bytes:
    prologue = b"\xba" + _PORT.to_bytes(4, "little")  # mov edx, PORT
    again = b"\xbe" + trips.to_bytes(4, "little") + bytes((0xE6, _START))
    loop = instruction + b"\xff\xce\x75"
    loop += bytes((0x100 - len(loop) - 1,))
    again += loop + bytes((0xE6, _END))
    return prologue + again + b"\xeb" + bytes((0x100 - len(again) - 2,))
