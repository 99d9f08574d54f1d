"""From exec to the guest's first byte on standard output: nestvmm against QEMU, with the same Multiboot image."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.child import child
from nestvmm.bench.goals import FIRST_BYTE
from nestvmm.bench.qemu import qemu_command
from nestvmm.bench.row import Row, compare
from nestvmm.bench.rtt import image
from nestvmm.errors import HostError

__all__ = ["Startup", "first_byte"]

# Seconds that a program may take to its first byte.
_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Startup:
    """The case."""

    name: ClassVar[str] = "startup"
    about: ClassVar[str] = "from exec to the first byte of a Multiboot guest; with --peer qemu beside QEMU's"

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One: both take turns. Where the machine is emulated, this measures Python's start."""
        if choice.directly_here:
            yield Step("Multiboot", partial(_measure, choice))


def _measure(choice: Choice) -> list[Row]:
    guest = str(image(choice.guests, "multiboot"))
    ours = [*_nestvmm(), "run", guest]
    theirs = qemu_command("-serial", "stdio", "-kernel", guest) if choice.peer else None
    # the first start of each reads its files from the disk
    mine: list[float] = []
    other: list[float] = []
    for number in range((choice.runs or RUNS) + 1):
        for command, taken in ((ours, mine), (theirs, other)):
            if command is not None:
                seconds = first_byte(command)
                if number:
                    taken.append(seconds * 1000)
    row = Row("startup", "nestvmm", level=1, engine="direct", clock="host", unit="ms", us_per_unit=1000.0)
    own = replace(row, runs=tuple(mine))
    if theirs is None:
        return [own]
    reference = replace(row, what="QEMU", system="QEMU", engine="kvm", runs=tuple(other))
    return [reference, compare(own, reference, FIRST_BYTE.most)]


def first_byte(command: Sequence[str]) -> float:
    """Seconds from starting a command to its first byte on standard output; it is killed then.

    Raises HostError when it ends without one, or says nothing for a minute.
    """
    # an installed nestvmm has its bytecode: pip compiles it; in a checkout the first start does, unless this forbids it
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.monotonic()
    with child(command, environment) as process:
        out = process.stdout
        if out is None or not select.select([out], [], [], _LIMIT)[0]:
            raise HostError(f"{command[0]} said nothing for {_LIMIT:g} s")
        seconds = time.monotonic() - started
        if not os.read(out.fileno(), 1):
            complaint = process.communicate()[1].decode(errors="replace").strip()
            raise HostError(f"{command[0]} ended without output: {complaint or 'it did not say why'}")
    return seconds


def _nestvmm() -> list[str]:
    """The command that belongs to this Python."""
    script = Path(sys.executable).with_name("nestvmm")
    return [str(script)] if script.is_file() else [sys.executable, "-c", "from nestvmm.cli import main; main()"]
