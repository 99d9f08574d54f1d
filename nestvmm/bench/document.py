"""What a benchmark leaves behind: `nestvmm bench --json FILE`, which `nestvmm report` reads.

A JSON object. A reader refuses another `format`, ignores keys that it does not know, and takes null for "not known".

    format          "nestvmm-bench-1"
    command         the arguments of nestvmm: ["bench", "--lab", "svm", ...]
    started         when, ISO 8601 with the zone
    seconds         how long it took
    versions        {"nestvmm", "python", "qemu"}: texts; qemu is null where it is not installed
    environment     the machine that was measured:
        machine     "this host", "SVM lab" or "VMX lab"
        icount      whether its clock counts instructions
        cpu         the processor's name
        cpus        how many the measured system has
        kernel      release of its kernel
        kvm         {"kvm": {"parameter": "value"}, "kvm_amd": {...}}: parameters of the loaded modules; {}: built in
        tsc_mhz     TSC ticks of a microsecond
    rows            a list, in the order of the tables; each has every field of row.Row (see there), and
        minimum, median, low, high   of `runs`, in `unit`; low to high is the median's 95 % interval
        outliers    indexes into `runs`; they are part of every figure
        met         whether `ratio` is at most `goal`; null: there is no goal, or no ratio

Rows of one case that were measured in turn in the same run have runs of equal length, and `against` names the other by
its `what`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from nestvmm._native import lib
from nestvmm.bench.conform import conform
from nestvmm.bench.row import Row
from nestvmm.errors import UsageError
from nestvmm.loaders import regular_file

__all__ = ["FORMAT", "HOST", "Document", "Environment", "here", "read_document", "versions"]

FORMAT: Final = "nestvmm-bench-1"
HOST: Final = "this host"
_MODULES: Final = ("kvm", "kvm_amd", "kvm_intel", "kvm_pvm")
# Seconds for which the TSC is compared with the clock.
_PACE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine that was measured; see the module's text."""

    machine: str
    icount: bool
    cpu: str
    cpus: int
    kernel: str
    kvm: dict[str, dict[str, str]]
    tsc_mhz: float


@dataclass(frozen=True, slots=True)
class Document:
    """All of a benchmark's result; see the module's text."""

    command: tuple[str, ...]
    started: str
    seconds: float
    versions: dict[str, str | None]
    environment: Environment
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found |= {"command": list(self.command), "environment": asdict(self.environment)}
        found["rows"] = [row.as_dict() for row in self.rows]
        return {"format": FORMAT, **found}

    def text(self) -> str:
        """As JSON, with a line for each row."""
        data = self.as_dict()
        rows = ",\n".join("  " + json.dumps(row) for row in data.pop("rows"))
        head = json.dumps(data, indent=1).removesuffix("\n}")
        return f'{head},\n "rows": [\n{rows}\n ]\n}}\n'

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Document:
        """What `as_dict` gave. Raises KeyError or TypeError for anything else."""
        return conform(cls, data)


def read_document(path: Path) -> Document:
    """A file that `nestvmm bench --json` wrote. UsageError says what is wrong with any other."""
    with regular_file(str(path)) as file:
        text = file.read()
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f'its "format" is not "{FORMAT}"')
        return Document.from_dict(data)
    except KeyError as error:
        raise UsageError(f"{path}: {error} is missing: not written by `nestvmm bench --json`") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}: not written by `nestvmm bench --json`") from None


def here(machine: str = HOST, icount: bool = False) -> Environment:
    """This machine."""
    cpus = len(os.sched_getaffinity(0))
    return Environment(machine, icount, _cpu(), cpus, platform.release(), _parameters(), _tsc_mhz())


def versions() -> dict[str, str | None]:
    """Of nestvmm, this Python, and QEMU."""
    try:
        own = version("nestvmm")
    except PackageNotFoundError:
        own = None
    return {"nestvmm": own, "python": platform.python_version(), "qemu": _qemu_version()}


def _qemu_version() -> str | None:
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
    return said[0].removeprefix("QEMU emulator version ") if said else None


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _parameters() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for module in _MODULES:
        folder = Path("/sys/module", module, "parameters")
        values = {path.name: _text(path) for path in sorted(folder.glob("*"))}
        if values:
            found[module] = values
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # some are for root only
        return "?"


def _tsc_mhz() -> float:
    ticks, start = int(lib.nv_ticks()), time.monotonic_ns()
    time.sleep(_PACE)
    taken = time.monotonic_ns() - start
    return (int(lib.nv_ticks()) - ticks) * 1000 / taken
