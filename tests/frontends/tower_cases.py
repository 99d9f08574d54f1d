"""Runs in the SVM lab: towers of minivisors; prints how each ended, as JSON.

usage: tower_cases.py HEIGHT[:LEVEL] ...

LEVEL: the level that the SVM instructions of the levels above it are designated to
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from nestvmm.loaders.stack import Stacked, stack
from nestvmm.nesting import GuestSpec, Runner, Tower, TowerSpec

GUESTS = Path(__file__).resolve().parents[2] / "guests"
MEMORY = 64 << 20
COUNT, CASCADE_COUNT = 20, 3


def tower(height: int, guest: str, append: str = "") -> bytes:
    """An image: minivisors at levels 1 to height - 1, and a guest of guests/ on top."""
    minivisor = (GUESTS / "minivisor" / "minivisor-svm.elf").read_bytes()
    levels = [Stacked(minivisor, f"level={level}") for level in range(2, height)]
    top = Stacked((GUESTS / guest / f"{guest}.elf").read_bytes(), f"level={height} {append}")
    return stack(minivisor, [*levels, top])


def run(image: bytes, designate: tuple[str, ...]) -> dict[str, object]:
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as out:
        file.write(image)
        file.flush()
        guest = GuestSpec(Path(file.name), append="level=1", memory=MEMORY)
        spec = TowerSpec(guest, engine="svm", timeout=120, designate=designate)
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


if __name__ == "__main__":
    found = {}
    for word in sys.argv[1:]:
        print(word, file=sys.stderr, flush=True)
        height, _, level = word.partition(":")
        image = tower(int(height), "innermost", f"walk=2 count={CASCADE_COUNT if level else COUNT}")
        found[word] = run(image, (f"svm-instruction={level}",) if level else ())
    print(json.dumps(found))
