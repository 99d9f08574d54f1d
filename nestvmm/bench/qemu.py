"""The peer: guests/rtt under QEMU on KVM, level 1, in turns with the same image under nestvmm at level 1."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from nestvmm.bench.answers import HOLE
from nestvmm.bench.case import RUNS, WARM_UP, Choice, Step
from nestvmm.bench.child import finished
from nestvmm.bench.exits import hypercall, l0_hypercalls
from nestvmm.bench.row import Row, compare
from nestvmm.bench.rtt import guest_figures, image, on_levels
from nestvmm.errors import HostError
from nestvmm.x86.layout import PORT_POST

__all__ = ["QEMU", "Peer", "qemu_command"]

QEMU: Final = "qemu-system-x86_64"
_OPTIONS: Final = ("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")
_EXIT: Final = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4")
# What isa-debug-exit makes of 0.
_DONE: Final = 1
_LIMIT: Final = 120.0
# So often the two take turns; each time with a share of the runs.
_TURNS: Final = 3
_COUNT: Final = 200

# kind: rtt's words, and what serves it: of nestvmm, of QEMU
_KINDS: Final = {
    "cpuid": ("cpuid", "KVM", "KVM"),
    "msr-read": ("msr at=0x10", "KVM", "KVM"),
    "port": (f"port-in at={PORT_POST[0]:#x}", "C", "QEMU"),
    "mmio": (f"mmio at={HOLE:#x}", "C", "QEMU"),
    "timer": ("timer", "KVM", "KVM"),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """What the same exits cost under QEMU."""

    name: ClassVar[str] = "peer"
    about: ClassVar[str] = "the same guest at level 1 under QEMU on this KVM; with --peer qemu"

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each kind of exit."""
        if not choice.peer:
            return
        kinds = dict(_KINDS)
        if l0_hypercalls():
            kinds["hypercall"] = (hypercall("svm"), "KVM", "KVM")
        for kind, (words, ours, theirs) in kinds.items():
            yield Step(f"{kind} at L1", partial(_measure, choice, kind, words, ours, theirs))


def qemu_command(*arguments: str) -> list[str]:
    """QEMU on KVM without devices. HostError: it is not installed."""
    found = shutil.which(QEMU)
    if found is None:
        raise HostError(f"{QEMU} is not installed: apt-get install qemu-system-x86")
    return [found, "-accel", "kvm", *_OPTIONS, *arguments]


def _measure(choice: Choice, kind: str, words: str, ours: str, theirs: str) -> list[Row]:
    runs = -(-(choice.runs or RUNS) // _TURNS)
    mine: tuple[float, ...] = ()
    other: tuple[float, ...] = ()
    for _ in range(_TURNS):
        other += _under_qemu(choice.guests, words, runs)
        mine += on_levels(choice.guests, words, runs=runs, count=_COUNT, machine="pc").guest
    row = Row(kind, level=1, handler_level=0, clock="guest", us_per_unit=choice.us_per_cycle)
    reference = replace(row, what="QEMU, L1", system="QEMU", engine="kvm", handler=theirs, runs=other)
    own = replace(row, what="nestvmm, L1", engine="direct", handler=ours, runs=mine)
    return [reference, compare(own, reference)]


def _under_qemu(guests: Path, words: str, runs: int) -> tuple[float, ...]:
    line = f"{words} count={_COUNT} runs={WARM_UP + runs}"
    kernel = ("-kernel", str(image(guests, "rtt")), "-append", line)
    command = qemu_command("-m", "64", "-serial", "stdio", *_EXIT, *kernel)
    try:
        ended = finished(command, _LIMIT)
    except subprocess.TimeoutExpired:
        raise HostError(f"rtt under QEMU did not end within {_LIMIT:g} s") from None
    if ended.returncode != _DONE:
        raise HostError(f"rtt under QEMU ended with status {ended.returncode}: {ended.stderr.decode(errors='replace')}")
    return guest_figures(ended.stdout.decode(errors="replace"), runs)
