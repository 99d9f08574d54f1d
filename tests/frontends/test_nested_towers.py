"""Towers of minivisors. Flat, of heights 2 to 8 and 16: every answer is right (tests/bench has what one costs).

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
)

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

HEIGHTS = [2, 3, 4, 5, 6, 7, 8, 16]
TOO_HIGH = 17
TRACED = "3:trace"
CASCADES = ["2:L1", "3:L1", "5:L1", "8:L1", "4:L2", "5:L3", "4:L7"]


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All heights, run in one go in the lab."""
    guest("minivisor")
    words = [*(str(height) for height in [*HEIGHTS, TOO_HIGH]), *CASCADES, TRACED, "designated"]
    return run_cases(svm_lab, "frontends/tower_cases.py", "svm", *words)


@pytest.mark.parametrize("name", [*map(str, HEIGHTS), *CASCADES])
def test_every_level_answers_the_innermost_guest(name: str, found: dict[str, Any]) -> None:
    check_answers("SVM", int(name.partition(":")[0]), found[name])


@pytest.mark.parametrize("height", HEIGHTS)
def test_only_the_owner_runs_for_an_exit(height: int, found: dict[str, Any]) -> None:
    check_owners(height, found[str(height)])


@pytest.mark.parametrize("height", HEIGHTS)
def test_every_exit_is_counted(height: int, found: dict[str, Any]) -> None:
    check_counted(found[str(height)])


def test_every_exit_is_traced(found: dict[str, Any]) -> None:
    case = found[TRACED]
    check_answers("SVM", 3, case)
    check_counted(case)
    check_traced(3, "vmmcall", case)


def test_a_designation_takes_events_from_an_image(found: dict[str, Any]) -> None:
    check_designated(found["designated"])


@pytest.mark.parametrize("name", CASCADES)
def test_l0_serves_no_level_above_the_one_that_nests(name: str, found: dict[str, Any]) -> None:
    check_nests(name, found[name])


def test_a_cascade_climbs_through_every_level(found: dict[str, Any]) -> None:
    check_climbs([2, 3, 5, 8], found)


def test_a_level_too_many_is_a_clear_error(found: dict[str, Any]) -> None:
    case = found[str(TOO_HIGH)]
    assert case["status"] == 255
    assert "level 16 wants to run level 17; L0 has room for 16 levels of images" in case["message"]
