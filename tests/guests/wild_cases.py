"""Runs in a lab: members of wild under a switcher engine, one after the other in one process; prints their ends.

wild_cases.py IMAGE ENGINE MEMBER=SECONDS...      a member may have an option: "write-beyond at=0x1000=30"
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from print_cases import print_cases

from nestvmm.nesting import GuestSpec, Runner, Tower, TowerSpec

MEMORY = 64 << 20


def run(image: Path, engine: str, member: str, seconds: float) -> dict[str, object]:
    guest = GuestSpec(image, append=member, memory=MEMORY)
    with (
        tempfile.TemporaryFile() as output,
        Tower(TowerSpec(guest, (), engine=engine, timeout=seconds), stdout=output.fileno()) as tower,
    ):
        result = Runner(tower).run()
        output.seek(0)
        return {
            "status": result.status,
            "message": result.message,
            "output": output.read(2000).decode(errors="replace"),
        }


if __name__ == "__main__":
    image, engine, *members = sys.argv[1:]
    limits = dict(argument.rsplit("=", 1) for argument in members)
    print_cases({one: partial(run, Path(image), engine, one, float(seconds)) for one, seconds in limits.items()})
