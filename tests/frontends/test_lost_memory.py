"""Memory that L0's process has lost, below and above images: a `memory-fault` whose address nobody knows."""

from __future__ import annotations

from typing import Any

import pytest
from command import guest
from lab_cases import run_cases

from nestvmm.lab import Lab

DIED, UNKNOWN = 255, (1 << 64) - 1
MARKED = int.from_bytes(b"memory t", "little")


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    guest("minivisor")
    return run_cases(vendor_lab, "frontends/lost_memory_cases.py", vendor)


@pytest.mark.parametrize(
    ("name", "level"), [("below no image", 1), ("below an image", 1), ("above an image", 2), ("above two images", 3)]
)
def test_a_level_that_claims_it_may_have_the_guest_try_again(name: str, level: int, found: dict[str, Any]) -> None:
    case = found[name]
    assert case["seen"][level - 1] == [[level + 1, UNKNOWN, 0, 0, 0]]
    assert (case["status"], case["kept"]) == (0, [MARKED])


@pytest.mark.parametrize(("name", "level"), [("nobody's", 2), ("nobody's above an image", 3)])
def test_unclaimed_it_ends_the_run(name: str, level: int, found: dict[str, Any]) -> None:
    why = f"guest at L{level} died: KVM could not reach the memory behind one of its addresses"
    assert (found[name]["status"], found[name]["message"].splitlines()[0]) == (DIED, why)
