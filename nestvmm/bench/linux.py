"""How long a stock Linux kernel takes to its first program: under direct, and under svm with claims.

The same tower both times, with the console at a Python level; under svm its other levels also answer CPUID and two MSRs
that the kernel uses.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from nestvmm.bench.case import Choice, Step
from nestvmm.bench.child import finished
from nestvmm.bench.goals import LINUX
from nestvmm.bench.row import FLAT, Row, compare
from nestvmm.errors import HostError
from nestvmm.hypervisors import HandlerClaim, Hypervisor
from nestvmm.lab.initramfs import busybox_initramfs
from nestvmm.lab.kernel import find_kernel
from nestvmm.x86.event import HANDLED, Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Identity", "LinuxBoot", "Revision"]

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox sh -c 'echo a shell runs'
exec /bin/busybox reboot -f
"""
_SIGN = b"a shell runs"
_ARGUMENTS = "console=ttyS0 quiet panic=-1 mitigations=off"
_TIMEOUT = 240.0
_PAIRS = 2

_SIGNATURE_LEAF = 0x40000000
_MICROCODE, _HWCR = 0x8B, 0xC0010015
_LOW = 0xFFFFFFFF


class Identity(Hypervisor):
    """Answers the hypervisor's signature leaf; other leaves it looks at and declines."""

    def claims(self) -> Iterable[HandlerClaim]:
        """All of CPUID."""
        yield ExitReason.CPUID, 0, _LOW, None, self.leaf

    def leaf(self, event: Event) -> Result:
        """CPUID."""
        if event.qualifier != _SIGNATURE_LEAF:
            return Result.declined()
        regs = self.guest.regs
        words = [int.from_bytes(b"nestvmmbench"[at : at + 4], "little") for at in (0, 4, 8)]
        regs.rax, (regs.rbx, regs.rcx, regs.rdx) = _SIGNATURE_LEAF, words
        self.guest.set_regs(regs)
        return HANDLED


class Revision(Hypervisor):
    """Keeps the microcode revision and HWCR."""

    def __init__(self) -> None:
        self._values = {_MICROCODE: 0x1234, _HWCR: 0}

    def claims(self) -> Iterable[HandlerClaim]:
        """Both MSRs, both ways."""
        for index in self._values:
            yield ExitReason.RDMSR, index, index, None, lambda event: Result.read(self._values[event.qualifier])
            yield ExitReason.WRMSR, index, index, None, self.write

    def write(self, event: Event) -> Result:
        """WRMSR."""
        self._values[event.qualifier] = event.value
        return HANDLED


_LEVELS = {
    "direct": ("console",),
    "svm": (f"{__name__}:{Revision.__name__}", f"{__name__}:{Identity.__name__}", "console"),
}


@dataclass(frozen=True, slots=True)
class LinuxBoot:
    """The case."""

    name: ClassVar[str] = "linux"
    about: ClassVar[str] = "a stock Linux to its first program: svm, with CPUID and 2 MSRs in Python, against direct"

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One, where both engines are: they take turns. A clock that counts instructions has no time."""
        if {"direct", "svm"} <= set(choice.engines) and not choice.icount:
            yield Step("direct and svm", _measure)


def _measure() -> list[Row]:
    seconds: dict[str, list[float]] = {engine: [] for engine in _LEVELS}
    with tempfile.TemporaryDirectory(prefix="nestvmm-") as folder:
        initrd = Path(folder) / "initrd.gz"
        initrd.write_bytes(busybox_initramfs(_INIT))
        for _ in range(_PAIRS):
            for engine, names in _LEVELS.items():
                account = _boot(Path(folder), initrd, engine, names)
                if engine == "svm":
                    _check(account)
                seconds[engine].append(account["seconds"])
    row = Row("linux", "direct", level=2, engine="direct", clock="host", unit="s", us_per_unit=1e6)
    direct = replace(row, runs=tuple(seconds["direct"]))
    svm = replace(row, what="svm", engine="svm", level=4, mode=FLAT, runs=tuple(seconds["svm"]))
    return [direct, compare(svm, direct, LINUX.most)]


def _boot(folder: Path, initrd: Path, engine: str, levels: Iterable[str]) -> dict[str, Any]:
    """The account of one run."""
    file = folder / "account.json"
    command = [sys.executable, "-m", "nestvmm", "run", str(find_kernel().image), "-i", str(initrd), "-a", _ARGUMENTS]
    command += ["-m", "512", "--engine", engine, "--timeout", f"{_TIMEOUT:g}", "--json", str(file)]
    for level in levels:
        command += ["--level", level]
    ended = finished(command, 2 * _TIMEOUT)
    if ended.returncode or _SIGN not in ended.stdout:
        raise HostError(f"Linux under {engine}: {ended.stderr.decode(errors='replace')}")
    account: dict[str, Any] = json.loads(file.read_bytes())
    return account


def _check(account: dict[str, Any]) -> None:
    """Raises HostError unless the levels answered what they are there for."""
    answered = {row["reason"] for row in account["rows"] if row["level"] in (1, 2)}
    if not {"cpuid", "rdmsr"} <= answered:
        raise HostError(f"Linux caused {', '.join(sorted(answered))} only, not CPUID and RDMSR")
