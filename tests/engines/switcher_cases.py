"""The switcher of either engine: out of its guest's reach, and what becomes of a run in which it fails."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from guest_code import Tower, cpuid, done, inp, keep, load, rax, run_in, spec_of, store
from reason_cases import run

from nestvmm._native import lib
from nestvmm.engines.switcher import Switcher
from nestvmm.errors import NestvmmError
from nestvmm.hypervisors import Event, Hypervisor, Result, on_io

__all__ = ["CASES"]

_UD2 = b"\x0f\x0b"


def memory(engine: str) -> dict[str, object]:
    """Maps the switcher's pages at 1 GiB of its own addresses, then reads and writes them."""
    entry = lib.NV_SWITCHER_BASE | 0x87
    find = b"\x0f\x20\xd8\x48\x8b\x00\x48\x25\x00\xf0\xff\xff"  # rax = cr3; rax = its first PDPT
    find += b"\x48\x8b\x40\x08\x48\x25\x00\xf0\xff\xff" + b"\x48\x89\xc7"  # rdi = the PD of the second GiB
    patch = rax(entry) + b"\x48\x89\x07" + b"\x0f\x20\xd8\x0f\x22\xd8"  # its first entry; reload cr3
    code = find + patch + load(0x40000000) + keep(0) + store(0x40002088, 0) + load(0x40002088) + keep(1) + done()
    return run(engine, code, [])


class Breaking(Hypervisor):
    """Puts UD2 where the switcher begins, at an access to port 0x5000."""

    switcher: ClassVar[Switcher]

    @on_io(0x5000)
    def access(self, event: Event) -> Result:
        self.switcher.write(lib.NV_SWITCHER_CODE, _UD2)
        return Result.read(0)


def failure(engine: str) -> dict[str, object]:
    """The entry after CPUID, the first of the guest's exits that comes by the switcher then, faults there."""
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), inp(0x5000) + cpuid(0) + done(), [f"{Path(__file__)}:Breaking"], engine=engine)
        with Tower(spec) as tower:
            (level,) = tower.hypervisors
            level.switcher = tower.engine._switcher
            try:
                return {"message": run_in(tower).message, "status": 0}
            except NestvmmError as error:
                return {"message": str(error), "status": error.status}


CASES = {"switcher memory": memory, "switcher failure": failure}
