"""Why no level above an image has `memory-fault`: KVM tells no address of memory that L0's process has lost."""

from __future__ import annotations

from typing import Any

import pytest
from command import guest
from lab_cases import run_cases

from nestvmm.lab import Lab

DIED = 255


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    guest("minivisor")
    return run_cases(vendor_lab, "frontends/lost_memory_cases.py", vendor, timeout=300)


@pytest.mark.parametrize(("name", "level"), [("below no image", 2), ("below an image", 3), ("above an image", 3)])
def test_l0_ends_the_run_as_the_fault_has_no_address(name: str, level: int, found: dict[str, Any]) -> None:
    """So no level's claim can mean it, one below all images neither."""
    case = found[name]
    why = f"guest at L{level} died: KVM could not reach the memory behind one of its addresses"
    assert (case["status"], case["message"].splitlines()[0]) == (DIED, why)
    assert [row[2:] for row in case["rows"] if row[2] == "memory-fault"] == [["memory-fault", 1]]
    assert {row[0] for row in case["rows"] if row[2] == "memory-fault"} == {0}


def test_a_claim_above_an_image_is_refused(found: dict[str, Any]) -> None:
    why = (
        "L2 Claiming wants memory-fault, but stands above an image: the memory is L0's own, and KVM does not say where"
    )
    assert found["above an image that claims"]["refused"].startswith(why)
