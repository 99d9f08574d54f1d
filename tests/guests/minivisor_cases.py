"""Runs in a lab: towers of minivisors under the direct engine, on KVM's own nesting; prints how each ended, as JSON.

usage: minivisor_cases.py svm|vmx [CASE ...]
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
MEMORY = 16 << 20


def tower(vendor: str, height: int, guest: str, append: str = "") -> bytes:
    """An image: minivisors at levels 1 to height - 1, and a guest of guests/ on top."""
    minivisor = (GUESTS / "minivisor" / f"minivisor-{vendor}.elf").read_bytes()
    levels = [Stacked(minivisor, f"level={level}") for level in range(2, height)]
    top = Stacked((GUESTS / guest / f"{guest}.elf").read_bytes(), f"level={height} {append}")
    return stack(minivisor, [*levels, top])


def run(image: bytes, memory: int = MEMORY, append: str = "level=1") -> dict[str, object]:
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as out:
        file.write(image)
        file.flush()
        guest = GuestSpec(Path(file.name), append=append, memory=memory)
        with Tower(TowerSpec(guest, engine="direct", timeout=60), stdout=out.fileno()) as built:
            result = Runner(built).run(stdout=out.fileno())
        out.seek(0)
        return {"status": result.status, "message": result.message, "out": out.read().decode()}


def alone(vendor: str) -> bytes:
    return (GUESTS / "minivisor" / f"minivisor-{vendor}.elf").read_bytes()


def damaged(image: bytes) -> bytes:
    """The last image in the stack is no ELF file any more."""
    at = image.rindex(b"\x7fELF")
    return image[:at] + b"elf?" + image[at + 4 :]


def cases(vendor: str) -> dict[str, tuple[bytes, dict[str, object]]]:
    return {
        "answers": (tower(vendor, 2, "innermost", "walk=4 count=20"), {}),
        "beyond": (tower(vendor, 2, "innermost", "walk=1 beyond"), {}),
        "far beyond": (tower(vendor, 2, "innermost", "walk=1 beyond=0x40000000"), {}),
        "shutdown": (tower(vendor, 2, "wild", "triple-fault"), {}),
        "ordinary": (tower(vendor, 2, "ordinary"), {}),
        "three": (tower(vendor, 3, "innermost", "walk=1"), {}),
        **({"four": (tower(vendor, 4, "innermost", "walk=1"), {})} if vendor == "svm" else {}),
        "alone": (alone(vendor), {}),
        "little memory": (tower(vendor, 2, "hello"), {"memory": 3 << 20}),
        "no level": (tower(vendor, 2, "hello"), {"append": "level=64"}),
        "nothing on top": (stack(alone(vendor), [Stacked(alone(vendor), "level=2")]), {}),
        "damaged": (damaged(tower(vendor, 2, "hello")), {}),
    }


if __name__ == "__main__":
    vendor, *names = sys.argv[1:]
    print_cases({name: partial(run, image, **options) for name, (image, options) in cases(vendor).items()}, names)  # type: ignore[arg-type]
