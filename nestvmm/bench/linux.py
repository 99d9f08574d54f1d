"""How long a stock Linux kernel takes to its first program in the SVM lab: under direct, and under svm with claims.

The same tower both times, with the console at a Python level; under svm its other levels also answer CPUID and two MSRs
that the kernel uses.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nestvmm.bench.row import Row, compare
from nestvmm.errors import HostError
from nestvmm.hypervisors import HandlerClaim, Hypervisor
from nestvmm.lab import SvmLab
from nestvmm.lab.initramfs import busybox_initramfs
from nestvmm.x86.event import HANDLED, Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Identity", "Revision", "measure_linux"]

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox sh -c 'echo a shell runs'
exec /bin/busybox reboot -f
"""
_SIGN = b"a shell runs"
_ARGUMENTS = "console=ttyS0 quiet panic=-1 mitigations=off"
_TIMEOUT = 240.0
_PAIRS = 2
_GOAL = 3.0

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


def measure_linux() -> list[Row]:
    """Boots the lab, and the kernel in it, in turn under both engines."""
    levels = {
        "direct": ("console",),
        "svm": (f"{__name__}:{Revision.__name__}", f"{__name__}:{Identity.__name__}", "console"),
    }
    seconds: dict[str, list[float]] = {engine: [] for engine in levels}
    with tempfile.TemporaryDirectory(prefix="nestvmm-") as folder, SvmLab() as lab:
        initrd = Path(folder) / "initrd.gz"
        initrd.write_bytes(busybox_initramfs(_INIT))
        for _ in range(_PAIRS):
            for engine, names in levels.items():
                account = _boot(lab, initrd, engine, names)
                if engine == "svm":
                    _check(account)
                seconds[engine].append(account["seconds"])
    direct = compare("SVM lab: Linux to a shell, direct", "s", seconds["direct"])
    what = "SVM lab: Linux to a shell, svm, CPUID and 2 MSRs in Python"
    return [
        direct,
        compare(what, "s", seconds["svm"], against="direct", references=seconds["direct"], goal=_GOAL),
    ]


def _boot(lab: SvmLab, initrd: Path, engine: str, levels: Iterable[str]) -> dict[str, Any]:
    """The account of one run."""
    command = [sys.executable, "-m", "nestvmm", "run", str(lab.kernel), "-i", str(initrd), "-a", _ARGUMENTS]
    command += ["-m", "512", "--engine", engine, "--timeout", f"{_TIMEOUT:g}", "--json", "/run/account.json"]
    for level in levels:
        command += ["--level", level]
    result = lab.run(command, timeout=2 * _TIMEOUT)
    if result.status or _SIGN not in result.stdout:
        raise HostError(f"Linux under {engine} in the SVM lab: {result.stderr.decode(errors='replace')}")
    account: dict[str, Any] = json.loads(lab.run(["cat", "/run/account.json"]).stdout)
    return account


def _check(account: dict[str, Any]) -> None:
    """Raises HostError unless the levels answered what they are there for."""
    answered = {row["reason"] for row in account["rows"] if row["level"] in (1, 2)}
    if not {"cpuid", "rdmsr"} <= answered:
        raise HostError(f"Linux in the SVM lab caused {', '.join(sorted(answered))} only, not CPUID and RDMSR")
