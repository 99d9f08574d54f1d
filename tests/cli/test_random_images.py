"""200 random mutations of each image format end in a tower or one error; some of those towers run, for a short time."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from command import guest
from loaders.image_writers import BzImage
from machine_code import ADDRESS, ECHO

from nestvmm.errors import ImageError
from nestvmm.nesting import GuestSpec, Runner, Tower, TowerSpec

pytestmark = pytest.mark.kvm

MIB = 1 << 20
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
RUNS = 12


def originals() -> dict[str, bytes]:
    return {
        "ELF64": guest("hello").read_bytes(),
        "Multiboot": guest("multiboot").read_bytes(),
        "bzImage": BzImage().write(),
        "raw": ECHO,
    }


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Most of it in the first 2 KiB, where headers and first instructions are."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(min(len(data), 2048) if chance.random() < 0.9 else len(data))
        size = chance.choice((1, 2, 4, 8))
        value = chance.choice((chance.choice(EXTREMES), chance.randrange(64 * MIB), chance.getrandbits(64)))
        changed[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    if chance.random() < 0.1:
        del changed[chance.randrange(1, len(changed)) :]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["ELF64", "Multiboot", "bzImage", "raw"])
def test_200_mutations(kind: str, tmp_path: Path) -> None:
    chance = random.Random(kind)
    original = originals()[kind]
    path = tmp_path / "image"
    address = ADDRESS if kind == "raw" else None
    spec = TowerSpec(GuestSpec(path, "walk=1", address=address, memory=64 * MIB), timeout=0.2)
    path.write_bytes(original)
    Tower(spec, stdout=-1).close()
    ends: Counter[str] = Counter()
    for number in range(200):
        path.write_bytes(mutate(original, chance))
        try:
            with Tower(spec, stdout=-1) as tower:
                ends["tower"] += 1
                if ends["run"] < RUNS and number % 4 == 0:
                    status = Runner(tower).run().status
                    ends["run"] += 1
                    ends[f"status {status}"] += 1
        except ImageError:
            ends["ImageError"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}") from error
    assert ends["tower"] + ends["ImageError"] == 200
    assert ends["tower"] > 20, ends
    assert ends["run"] == RUNS, ends
    assert ends["ImageError"] > 5 or kind == "raw", ends
