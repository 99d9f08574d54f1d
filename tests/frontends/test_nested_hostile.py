"""Hypervisors at level 1 that break every rule of software SVM: each ends as hardware would, or in one clear error."""

from __future__ import annotations

from typing import Any

import pytest
from lab_cases import run_cases

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

GUEST, HOLE = 0x140000, 0x3FF00000
UNDEFINED, IO_EXIT, MSR_EXIT, SHUTDOWN, VMMCALL, REFUSED = 0x46, 0x7B, 0x7C, 0x7F, 0x81, (1 << 64) - 1
BLOCKS = 5000
# Slots of the counts that random_blocks.py keeps.
INVALID, NPF = 0x3FE, 0x3FF
TIMED_OUT, DIED = 124, 255


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(svm_lab, "frontends/hostile_cases.py")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("maps in a hole", [IO_EXIT, MSR_EXIT, 0]),
        ("its own host state", [REFUSED, VMMCALL, GUEST]),
        ("code as a block", [REFUSED]),
        ("tables in a hole", [SHUTDOWN]),
        ("code in a hole", [UNDEFINED, HOLE]),
        ("shutdown", [SHUTDOWN]),
    ],
)
def test_it_ends_as_hardware_would(name: str, kept: list[int], found: dict[str, Any]) -> None:
    case = found[name]
    assert (case["status"], case["message"], case["kept"][: len(kept)]) == (0, "", kept)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("its own state", "guest at L16 died: level 16 wants to run level 17; L0 has room for 16 levels of images"),
        ("shutdown that nobody intercepts", "guest at L2 died: triple fault"),
        ("shutdown of its own", "guest at L1 died: triple fault"),
    ],
)
def test_it_ends_in_one_error(name: str, message: str, found: dict[str, Any]) -> None:
    case = found[name]
    assert (case["status"], case["message"].splitlines()[0]) == (DIED, message)


def test_a_guest_that_exits_for_ever_meets_the_timeout(found: dict[str, Any]) -> None:
    case = found["endless"]
    assert (case["status"], case["message"]) == (TIMED_OUT, "timeout: the guest still ran after 2 s")


def test_random_blocks_each_end(found: dict[str, Any]) -> None:
    """By exits of many kinds, the hypervisor's own memory and that of the levels below as they were."""
    case = found["random"]
    counts = case["counts"]
    assert (case["status"], case["message"]) == (5, "")
    assert sum(counts) == BLOCKS
    assert (case["changed"], case["canaries"]) == ([], True)
    assert counts[INVALID] > 100
    assert counts[NPF] > 100
    assert sum(1 for count in counts if count) > 15
    assert counts[INVALID] + counts[NPF] < BLOCKS * 3 // 4


@pytest.mark.parametrize("name", ["wild 1", "wild 2", "wild 3"])
def test_a_hypervisor_whose_guest_may_do_anything_to_it_harms_no_one_else(name: str, found: dict[str, Any]) -> None:
    assert found[name]["canaries"]
