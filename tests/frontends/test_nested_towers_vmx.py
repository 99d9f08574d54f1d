"""Towers of minivisors on VMX by software. Flat, of heights 2 to 4: every answer is right, and its cost does not grow.

The same images as a cascade, in which each level nests the next: every answer is right, and level 1 runs for each.
"""

from __future__ import annotations

from typing import Any

import pytest
from command import guest
from lab_cases import run_cases
from tower_checks import (
    check_answers,
    check_climbs,
    check_counted,
    check_designated,
    check_nests,
    check_owners,
    check_traced,
    cost,
)

from nestvmm.lab import Lab

pytestmark = pytest.mark.vmx_lab

HEIGHTS = [2, 3, 4]
TRACED = "3:trace"
CASCADES = ["2:L1", "3:L1", "4:L2"]
EXTRAS = [f"{height}:extras" for height in HEIGHTS]


@pytest.fixture(scope="module")
def found(vmx_lab: Lab) -> dict[str, Any]:
    """All heights, run in one go in the lab."""
    guest("minivisor")
    words = [*map(str, HEIGHTS), *CASCADES, *EXTRAS, TRACED, "designated"]
    return run_cases(vmx_lab, "frontends/tower_cases.py", "vmx", *words)


@pytest.mark.parametrize("name", [*map(str, HEIGHTS), *CASCADES, *EXTRAS])
def test_every_level_answers_the_innermost_guest(name: str, found: dict[str, Any]) -> None:
    check_answers("VMX", int(name.partition(":")[0]), found[name])


@pytest.mark.parametrize("height", HEIGHTS)
def test_only_the_owner_runs_for_an_exit(height: int, found: dict[str, Any]) -> None:
    check_owners(height, found[str(height)])


@pytest.mark.parametrize("name", CASCADES)
def test_l0_serves_no_level_above_the_one_that_nests(name: str, found: dict[str, Any]) -> None:
    check_nests(name, found[name])


def test_a_cascade_climbs_through_every_level(found: dict[str, Any]) -> None:
    check_climbs([2, 3], found)


@pytest.mark.parametrize("kind", ["cpuid", "hypercall", "port"])
def test_the_cost_of_an_exit_is_flat(kind: str, found: dict[str, Any]) -> None:
    assert cost(found["4"], kind) < 1.3 * cost(found["2"], kind)


@pytest.mark.parametrize("name", EXTRAS)
def test_each_level_has_a_vpid_a_timer_and_lists_of_msrs(name: str, found: dict[str, Any]) -> None:
    """Each minivisor looks itself whether they do what they should; the timer ends its first entry, and no other."""
    case, height = found[name], int(name.partition(":")[0])
    (row,) = [row for row in case["account"]["rows"] if row["reason"] == "preemption-timer"]
    assert (row["level"], row["count"]) == (1, height - 1)  # of all images
    check_owners(height, case)
    check_counted(case)


@pytest.mark.parametrize("height", HEIGHTS)
def test_every_exit_is_counted(height: int, found: dict[str, Any]) -> None:
    check_counted(found[str(height)])


def test_every_exit_is_traced(found: dict[str, Any]) -> None:
    case = found[TRACED]
    check_answers("VMX", 3, case)
    check_counted(case)
    check_traced(3, "vmcall", case)


def test_a_designation_takes_events_from_an_image(found: dict[str, Any]) -> None:
    check_designated(found["designated"])
