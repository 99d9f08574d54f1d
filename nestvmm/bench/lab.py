"""The cost of a port read in the SVM lab under -icount, where the TSC counts instructions: figures that repeat.

The guest measures itself (guests/rtt). Measured the same way there, a read that userspace serves costs 3,345 ticks
under kvmtool and 5,015 under QEMU, whose guest ran at level 1 like ours.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

from nestvmm.bench.row import Row
from nestvmm.errors import HostError
from nestvmm.lab import SvmLab
from nestvmm.x86.layout import PORT_POST

__all__ = ["inside", "measure_lab", "rtt_ticks"]

_KVMTOOL = 3345
_TRIPS = 500
_READS = 1000
# Enough for a 95 % interval, with the clock that counts instructions.
_BATCHES = 10
# Seconds that a command may take there.
_LIMIT = 120.0


def measure_lab(rtt: Path) -> list[Row]:
    """Boots the lab and measures there; `rtt` is the guest."""
    # with two processors the lab's kernel does not boot under -icount
    with SvmLab(icount=True, cpus=1) as lab:

        def output(*command: str) -> str:
            result = lab.run([sys.executable, "-c", *command], timeout=_LIMIT)
            if result.status:
                raise HostError(f"in the SVM lab, {' '.join(command)} failed: {result.stderr.decode(errors='replace')}")
            return result.stdout.decode()

        run = "from nestvmm.cli import main; main()"
        served = rtt_ticks(output(run, "run", str(rtt), "-a", f"port-in count={_READS} at={PORT_POST[0]:#x}"))
        bare, in_python = json.loads(output("from nestvmm.bench.lab import inside; inside()"))
        switches = json.loads(output("from nestvmm.bench.lab import inside_switch; inside_switch()"))
    return [
        Row("SVM lab: port read, bare loop", "ticks", bare, samples=_TRIPS),
        Row(
            "SVM lab: port read, served in C",
            "ticks",
            served,
            f"kvmtool's {_KVMTOOL}",
            served / _KVMTOOL,
            goal=1.0,
            samples=_READS,
        ),
        Row("SVM lab: port read, served in Python", "ticks", in_python, samples=_TRIPS),
        *(Row(**row) for row in switches),
    ]


def rtt_ticks(text: str) -> int:
    """The median that the guest printed."""
    found = re.search(r"^rtt port-in count \d+ min \d+ median (\d+) cycles", text, re.MULTILINE)
    if found is None:
        raise HostError(f"the guest rtt printed {text!r:.200}, not its cycles; `make guests` builds it anew")
    return int(found[1])


def inside() -> None:
    """Runs in the lab: prints the ticks of a round trip by the bare loop, and of one that Python serves."""
    from nestvmm.bench.course import Course  # noqa: PLC0415 - only this half needs KVM

    with Course(_TRIPS) as bare, Course(_TRIPS, handler=1) as in_python:
        # twice: the first batch fills caches and page tables
        batches = [(bare.bare_batch(), in_python.batch()) for _ in range(2)]
    print(json.dumps(batches[-1]))


def inside_switch() -> None:
    """Runs in the lab: prints the rows of the round trips through the switcher."""
    from nestvmm.bench.switch import measure_switch  # noqa: PLC0415 - only this half needs KVM

    print(json.dumps([asdict(replace(row, what=f"SVM lab: {row.what}")) for row in measure_switch(_BATCHES)]))
