"""From exec to the guest's first byte on standard output: nestvmm against QEMU, with the same Multiboot image."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nestvmm.bench.row import Row, compare
from nestvmm.errors import HostError

__all__ = ["first_byte", "measure_startup"]

_QEMU = "qemu-system-x86_64"
_QEMU_OPTIONS = ("-accel", "kvm", "-nodefaults", "-display", "none", "-serial", "stdio", "-kernel")
_WHAT = "exec to first byte of a Multiboot guest"
_GOAL = 1.0
# Seconds that a program may take to its first byte.
_LIMIT = 60.0


def measure_startup(image: Path, runs: int, *, qemu: bool = True) -> list[Row]:
    """Rows for nestvmm and, where it is installed and `qemu` is set, for QEMU; each runs `runs` times, in turn."""
    if not image.is_file():
        raise HostError(f"{image}: not there; `make guests` builds it")
    ours = [*_nestvmm(), "run", str(image)]
    found = shutil.which(_QEMU) if qemu else None
    theirs = None if found is None else [found, *_QEMU_OPTIONS, str(image)]
    # the first start of each reads its files from the disk
    mine: list[float] = []
    other: list[float] = []
    for number in range(runs + 1):
        for command, taken in ((ours, mine), (theirs, other)):
            if command is not None:
                seconds = first_byte(command)
                if number:
                    taken.append(seconds * 1000)
    if theirs is None:
        why = "not asked for (--no-qemu)" if not qemu else f"{_QEMU} is not installed: apt-get install qemu-system-x86"
        return [Row(f"{_WHAT}, QEMU", "ms", note=why), compare(f"{_WHAT}, nestvmm", "ms", mine)]
    return [
        compare(f"{_WHAT}, QEMU", "ms", other),
        compare(f"{_WHAT}, nestvmm", "ms", mine, against="QEMU", references=other, goal=_GOAL),
    ]


def first_byte(command: Sequence[str]) -> float:
    """Seconds from starting a command to its first byte on standard output; it is killed then.

    Raises HostError when it ends without one, or says nothing for a minute.
    """
    # an installed nestvmm has its bytecode: pip compiles it; in a checkout the first start does, unless this forbids it
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        out = process.stdout
        try:
            if out is None or not select.select([out], [], [], _LIMIT)[0]:
                raise HostError(f"{command[0]} said nothing for {_LIMIT:g} s")
            seconds = time.monotonic() - started
            if not os.read(out.fileno(), 1):
                complaint = process.communicate()[1].decode(errors="replace").strip()
                raise HostError(f"{command[0]} ended without output: {complaint or 'it did not say why'}")
        finally:
            process.kill()
    return seconds


def _nestvmm() -> list[str]:
    """The command that belongs to this Python."""
    script = Path(sys.executable).with_name("nestvmm")
    return [str(script)] if script.is_file() else [sys.executable, "-c", "from nestvmm.cli import main; main()"]
