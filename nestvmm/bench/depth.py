"""What an exit of the innermost guest to its own hypervisor costs by its level: flat, and as a cascade.

Towers of machine code in the SVM lab under -icount, where the TSC counts instructions: minivisors at levels 1 to n-1,
and at level n a guest that measures itself (guests/innermost). The same images run twice: with the SVM instructions of
all levels designated to L0, and with those of the levels above 1 designated to level 1, so that each hypervisor nests
the next by itself. At level 1, without a hypervisor image, L0 itself answers (guests/rtt).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestvmm.errors import HostError
from nestvmm.lab import SvmLab
from nestvmm.loaders.stack import Stacked, stack
from nestvmm.x86.layout import PORT_POST

__all__ = ["KINDS", "Depth", "inside", "measure_depth"]

KINDS = ("cpuid", "hypercall", "port")
_HEIGHTS = range(1, 9)
# Samples of each kind: they repeat by the clock that counts instructions, and one through seven levels takes long.
_FLAT_COUNT, _CASCADE_COUNT = 20, 5
_MEMORY = 64 << 20
# Seconds that a tower may take, and all of them.
_TOWER_LIMIT = 300.0
_LIMIT = 1200.0


@dataclass(frozen=True, slots=True)
class Depth:
    """One kind of exit of a guest at one level: medians in cycles, which are instructions there.

    kind:   one of KINDS; L0 serves no hypercall at level 1
    """

    level: int
    kind: str
    flat: int
    cascade: int

    @property
    def ratio(self) -> float:
        """How many times as dear the cascade is."""
        return self.cascade / self.flat

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio}


def measure_depth(guests: Path, heights: Sequence[int] = _HEIGHTS) -> list[Depth]:
    """Boots the lab and measures there, for guests at these levels; `guests` is where `make guests` built them.

    Raises HostError where the lab or a tower does not run.
    """
    code = f"from nestvmm.bench.depth import inside; inside({str(guests.resolve())!r}, {list(heights)!r})"
    with SvmLab(icount=True) as lab:
        result = lab.run([sys.executable, "-c", code], timeout=_LIMIT)
    if result.status:
        raise HostError(f"in the SVM lab, measuring towers failed: {result.stderr.decode(errors='replace')}")
    return [Depth(**row) for row in json.loads(result.stdout)]


def inside(guests: str, heights: Sequence[int]) -> None:
    """Runs in the lab: prints the rows."""
    rows = []
    for height in heights:
        flat = _measure(Path(guests), height, ())
        cascade = _measure(Path(guests), height, ("svm-instruction=L1",))
        rows += [
            {"level": height, "kind": kind, "flat": flat[kind], "cascade": cascade[kind]}
            for kind in KINDS
            if kind in flat
        ]
    print(json.dumps(rows))


def _measure(guests: Path, height: int, designate: tuple[str, ...]) -> dict[str, int]:
    """The median cycles of each kind that the guest at this level measures."""
    count = _CASCADE_COUNT if designate else _FLAT_COUNT
    if height == 1:
        rtt = (guests / "rtt" / "rtt.elf").read_bytes()
        said = _run(rtt, f"cpuid count={count}", designate)
        said += _run(rtt, f"port-in count={count} at={PORT_POST[0]:#x}", designate)
    else:
        said = _run(_tower(guests, height, count), "level=1", designate)
    found = re.findall(r"^rtt (\w+)(?:-in)? count \d+ min \d+ median (\d+) cycles", said, re.MULTILINE)
    if len(found) < min(height + 1, len(KINDS)):
        raise HostError(
            f"the guest at level {height} printed {said!r:.400}, not its cycles; `make guests` builds it anew"
        )
    return {kind: int(cycles) for kind, cycles in found}


def _tower(guests: Path, height: int, count: int) -> bytes:
    minivisor = (guests / "minivisor" / "minivisor-svm.elf").read_bytes()
    levels = [Stacked(minivisor, f"level={level}") for level in range(2, height)]
    innermost = (guests / "innermost" / "innermost.elf").read_bytes()
    return stack(minivisor, [*levels, Stacked(innermost, f"level={height} walk=1 count={count}")])


def _run(image: bytes, append: str, designate: tuple[str, ...]) -> str:
    """What the tower prints."""
    from nestvmm.nesting import GuestSpec, Runner, Tower, TowerSpec  # noqa: PLC0415 - only this half needs KVM

    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as out:
        file.write(image)
        file.flush()
        guest = GuestSpec(Path(file.name), append=append, memory=_MEMORY)
        spec = TowerSpec(guest, engine="svm", designate=designate, timeout=_TOWER_LIMIT)
        with Tower(spec, stdout=out.fileno()) as tower:
            result = Runner(tower).run(stdout=out.fileno())
        out.seek(0)
        said = out.read().decode(errors="replace")
    if result.status:
        raise HostError(f"a tower to measure ended with {result.status}: {result.message or said}")
    return said
