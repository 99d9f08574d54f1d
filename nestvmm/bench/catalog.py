"""All cases, in the order of the tables."""

from __future__ import annotations

from typing import Final

from nestvmm.bench.case import Case
from nestvmm.bench.completion import Completion
from nestvmm.bench.depth import Depth
from nestvmm.bench.exits import EXIT_CASES
from nestvmm.bench.linux import LinuxBoot
from nestvmm.bench.published import Published
from nestvmm.bench.qemu import Peer
from nestvmm.bench.startup import Startup
from nestvmm.bench.switch import Switch
from nestvmm.bench.tracing import Parts, Tracing
from nestvmm.bench.trips import RoundTrips
from nestvmm.bench.twice import Twice

__all__ = ["CASES", "LONG"]

CASES: Final[tuple[Case, ...]] = (
    RoundTrips(),
    Switch(),
    *EXIT_CASES,
    Depth(),
    Peer(),
    Published(),
    Parts(),
    Tracing(),
    Completion(),
    Startup(),
    LinuxBoot(),
    Twice(),
)

#: Cases that take many minutes: measured when they are asked for by name.
LONG: Final = frozenset({Twice.name})
