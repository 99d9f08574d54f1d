"""Runs in a lab: towers of minivisors; prints how each ended, as JSON.

usage: tower_cases.py svm|vmx HEIGHT[:LEVEL] ...

LEVEL: the level that the SVM or VMX instructions of the levels above it are designated to
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from print_cases import print_cases

from nestvmm.loaders.stack import Stacked, stack
from nestvmm.nesting import GuestSpec, Runner, Tower, TowerSpec

GUESTS = Path(__file__).resolve().parents[2] / "guests"
MEMORY = 64 << 20
COUNT, CASCADE_COUNT = 20, 3


def tower(vendor: str, height: int, guest: str, append: str = "") -> bytes:
    """An image: minivisors at levels 1 to height - 1, and a guest of guests/ on top."""
    minivisor = (GUESTS / "minivisor" / f"minivisor-{vendor}.elf").read_bytes()
    levels = [Stacked(minivisor, f"level={level}") for level in range(2, height)]
    top = Stacked((GUESTS / guest / f"{guest}.elf").read_bytes(), f"level={height} {append}")
    return stack(minivisor, [*levels, top])


def run(vendor: str, image: bytes, designate: tuple[str, ...]) -> dict[str, object]:
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as out:
        file.write(image)
        file.flush()
        guest = GuestSpec(Path(file.name), append="level=1", memory=MEMORY)
        spec = TowerSpec(guest, engine=vendor, timeout=120, designate=designate)
        with Tower(spec, stdout=out.fileno()) as built:
            result = Runner(built).run(stdout=out.fileno())
            nested = built.engine.nested.c  # type: ignore[attr-defined]
            counts = {name: list(getattr(nested, name)) for name in ("entered", "reflected", "served")}
            exits = int(built.engine.vcpu.exits)
        out.seek(0)
        return {
            "status": result.status,
            "message": result.message,
            "out": out.read().decode(),
            "exits": exits,
            **counts,
        }


def case(vendor: str, word: str) -> dict[str, object]:
    """HEIGHT, or HEIGHT:LEVEL, whose SVM instructions go to that level."""
    height, _, level = word.partition(":")
    image = tower(vendor, int(height), "innermost", f"walk=2 count={CASCADE_COUNT if level else COUNT}")
    return run(vendor, image, (f"{vendor}-instruction={level}",) if level else ())


if __name__ == "__main__":
    vendor, *words = sys.argv[1:]
    print_cases({word: partial(case, vendor, word) for word in words})
