"""Runs in a lab: towers of minivisors; prints how each ended, as JSON.

usage: tower_cases.py svm|vmx HEIGHT[:LEVEL|:trace] ...

LEVEL:  the level that the SVM instructions of the levels above it are designated to
trace:  the run is traced
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from nestvmm.loaders.stack import Stacked, stack
from nestvmm.nesting import Account, Clock, GuestSpec, Runner, Tower, TowerSpec
from nestvmm.trace import Recorder

GUESTS = Path(__file__).resolve().parents[2] / "guests"
MEMORY = 64 << 20
COUNT, CASCADE_COUNT = 20, 3


def tower(vendor: str, height: int, guest: str, append: str = "") -> bytes:
    """An image: minivisors at levels 1 to height - 1, and a guest of guests/ on top."""
    minivisor = (GUESTS / "minivisor" / f"minivisor-{vendor}.elf").read_bytes()
    levels = [Stacked(minivisor, f"level={level}") for level in range(2, height)]
    top = Stacked((GUESTS / guest / f"{guest}.elf").read_bytes(), f"level={height} {append}")
    return stack(minivisor, [*levels, top])


def run(vendor: str, image: bytes, designate: tuple[str, ...], *, traced: bool) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        file, trace = Path(folder) / "tower.elf", Path(folder) / "trace.jsonl"
        file.write_bytes(image)
        guest = GuestSpec(file, append="level=1", memory=MEMORY)
        spec = TowerSpec(guest, engine=vendor, timeout=120, designate=designate)
        with Tower(spec, stdout=out.fileno()) as built:
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
    found = {}
    vendor, *words = sys.argv[1:]
    for word in words:
        print(word, file=sys.stderr, flush=True)
        height, _, level = word.partition(":")
        image = tower(vendor, int(height), "innermost", f"walk=2 count={CASCADE_COUNT if 'L' in level else COUNT}")
        traced = level == "trace"
        designate = () if traced or not level else (f"svm-instruction={level}",)
        found[word] = run(vendor, image, designate, traced=traced)
    print(json.dumps(found))
