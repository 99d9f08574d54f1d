"""Runs in a lab: towers of minivisors; prints how each ended, as JSON.

usage: tower_cases.py svm|vmx HEIGHT[:LEVEL|:trace|:extras]|designated ...

LEVEL:       the level that the SVM or VMX instructions of the levels above it are designated to
trace:       the run is traced
extras:      each minivisor has this option
designated:  a Python hypervisor below a minivisor has two of that one's events
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from print_cases import print_cases

from nestvmm.hypervisors import Direction, Event, ExitReason, Hypervisor, Result
from nestvmm.loaders.stack import Stacked, stack
from nestvmm.nesting import Account, Clock, GuestSpec, LevelSpec, Runner, Tower, TowerSpec
from nestvmm.trace import Recorder

GUESTS = Path(__file__).resolve().parents[2] / "guests"
MEMORY = 64 << 20
COUNT, CASCADE_COUNT = 20, 3


def tower(vendor: str, height: int, guest: str, append: str = "", lowest: int = 1, more: str = "") -> bytes:
    """An image: minivisors at levels `lowest` to height - 1, with `more` options, and a guest of guests/ on top."""
    minivisor = (GUESTS / "minivisor" / f"minivisor-{vendor}.elf").read_bytes()
    levels = [Stacked(minivisor, f"level={level}{more}") for level in range(lowest + 1, height)]
    top = Stacked((GUESTS / guest / f"{guest}.elf").read_bytes(), f"level={height} {append}")
    return stack(minivisor, [*levels, top])


class Marking(Hypervisor):
    """Answers as a minivisor at level 2 does: guests/lib/offer.h."""

    def __init__(self, vendor: str) -> None:
        self.vendor = vendor
        self.stored = self.count = 0

    def designated(self, event: Event) -> Result:
        """Its mark, and its port."""
        if event.reason is ExitReason.CPUID:
            regs = self.guest.regs
            text = f"minivisor{self.vendor.upper()}".encode()
            regs.rax, regs.rbx, regs.rcx, regs.rdx = 2, *struct.unpack("<3I", text)
            self.guest.set_regs(regs)
            return Result.handled()
        if event.size != 1:
            return Result.read(0xFFFFFFFF)
        if event.direction == Direction.WRITE:
            self.stored, self.count = event.value, 0
            return Result.handled()
        self.count += 1
        return Result.read(self.stored * 31 + 2 + self.count - 1)


def spec_of(vendor: str, word: str, file: Path) -> TowerSpec:
    """The tower that a word on the command line stands for; writes its lowest image."""
    height, _, level = word.partition(":")
    if word == "designated":
        file.write_bytes(tower(vendor, 3, "innermost", "below=4 walk=2", lowest=2))
        guest = GuestSpec(file, append="level=2", memory=MEMORY)
        levels = (LevelSpec("tower_cases:Marking", {"vendor": vendor}),)
        designate: tuple[str, ...] = ("cpuid:0x4e560002=L1", "io:0x5602=L1")
        return TowerSpec(guest, levels, designate, engine=vendor, timeout=120)
    cascade, more = level.startswith("L"), " extras" if level == "extras" else ""
    append = f"walk=2 count={CASCADE_COUNT if cascade else COUNT}"
    file.write_bytes(tower(vendor, int(height), "innermost", append, more=more))
    designate = (f"{vendor}-instruction={level}",) if cascade else ()
    guest = GuestSpec(file, append=f"level=1{more}", memory=MEMORY)
    return TowerSpec(guest, (), designate, engine=vendor, timeout=120)


def run(vendor: str, word: str) -> dict[str, object]:
    traced = word.endswith(":trace")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        trace = Path(folder) / "trace.jsonl"
        with Tower(spec_of(vendor, word, Path(folder) / "tower.elf"), stdout=out.fileno()) as built:
            clock = Clock()
            with Recorder(trace, built, clock) if traced else nullcontext() as recorder:
                result = Runner(built, drain=recorder and recorder.drain).run(stdout=out.fileno())
            nested = built.engine.nested.c  # type: ignore[attr-defined]
            counts = {name: list(getattr(nested, name)) for name in ("entered", "reflected", "served")}
            account = Account.of(built, clock, 0).as_dict()
        out.seek(0)
        return {
            "status": result.status,
            "message": result.message,
            "out": out.read().decode(),
            "account": account,
            "trace": [json.loads(line) for line in trace.read_text().splitlines()] if traced else [],
            **counts,
        }


if __name__ == "__main__":
    vendor, *words = sys.argv[1:]
    print_cases({word: partial(run, vendor, word) for word in words})
