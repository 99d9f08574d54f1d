"""Runs in a lab: a hypervisor gives its guest registers that no processor can have; prints how each run ended, as JSON.

refused_cases.py ENGINE
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from guest_code import cpuid, done, run_in, spec_of
from print_cases import print_cases

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec, Tower

_CR0_NW = 1 << 29
_CR4_PAE = 1 << 5
_EFER_LME = 1 << 8

_CR0_PE = 1 << 0
_TSS_AVAILABLE = 9

BREAKS = ("cr0-nw", "cr0-high", "cr4-reserved", "no-pae", "no-pe", "cs-l-d", "no-tr", "tr-free", "ss-code", "no-code")


class Breaking(Hypervisor):
    """Breaks one rule when its guest does CPUID."""

    def __init__(self, what: str) -> None:
        self._what = what

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.CPUID, 0, (1 << 64) - 1, None, self.handle)]

    def handle(self, event: Event) -> Result:
        sregs = self.guest.sregs
        match self._what:
            case "cr0-nw":
                sregs.cr0 |= _CR0_NW
            case "cr0-high":
                sregs.cr0 |= 1 << 40
            case "cr4-reserved":
                sregs.cr4 |= 1 << 40
            case "no-pae":
                sregs.cr4 &= ~_CR4_PAE
            case "no-pe":
                sregs.cr0 &= ~_CR0_PE
            case "cs-l-d":
                sregs.cs.db = 1
            case "no-tr":
                sregs.tr.unusable = 1
            case "tr-free":
                sregs.tr.type = _TSS_AVAILABLE
            case "ss-code":
                sregs.ss.type = 11
            case "no-code":
                sregs.cs.present = 0
        self.guest.set_sregs(sregs)
        return HANDLED


def run(engine: str, what: str) -> dict[str, object]:
    levels = [LevelSpec(f"{Path(__file__)}:Breaking", {"what": what})]
    with (
        tempfile.TemporaryDirectory() as folder,
        Tower(spec_of(Path(folder), cpuid(0) + done(), levels, engine=engine)) as tower,
    ):
        result = run_in(tower)
        return {"status": result.status, "message": result.message}


if __name__ == "__main__":
    print_cases({what: partial(run, sys.argv[1], what) for what in BREAKS})
