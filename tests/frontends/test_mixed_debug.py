"""Levels that step through their guests below, between and above images: each instruction is an event, whoever does it.

Towers are as in mixed_step_cases.py, which says where the guest stands behind each instruction.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from command import guest
from lab_cases import run_cases
from mixed_checks import images, minivisors_answers
from vendors import svm_alone

from nestvmm.lab import Lab

STEP, BREAK = 1, 3
FLAGS, IF, BS = 2, 1 << 9, 0xFFFF4FF0
BY_IMAGE = (3, 8, 13, 16)  # of the instructions of "two levels": CPUID, a hypercall, OUT, IN
ENDED = 250  # a minivisor's, whose guest touches what is not its memory


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    guest("minivisor")
    found = run_cases(vendor_lab, "frontends/mixed_step_cases.py", vendor)
    assert {name: case for name, case in found.items() if case.get("message", "refused")} == {}
    assert {name for name, case in found.items() if case["status"]} == {"outside"}
    return found


def rows(case: dict[str, Any], level: int) -> list[list[int]]:
    """What the level saw, without other events."""
    return [row for row in case["seen"][level - 1] if len(row) == 4]


def stepped(case: dict[str, Any], level: int) -> list[int]:
    """Where the level saw its guest, and never a trap flag."""
    assert {(row[2], row[3]) for row in rows(case, level)} == {(level + 1, 0)}
    return [row[1] for row in rows(case, level) if row[0] == STEP]


@pytest.mark.parametrize(
    ("name", "level", "kept", "exits"),
    [
        ("plain", 2, [FLAGS, 0], {1: 0}),
        pytest.param("plain above two images", 3, [FLAGS, 0], {2: 0}, marks=svm_alone),
        ("plain below an image", 1, [FLAGS, 0], {2: 0}),
        ("an image does", 2, [1, FLAGS, minivisors_answers(1)], {1: 4}),
        pytest.param("the upper image does", 3, [2, FLAGS, minivisors_answers(2)], {2: 4}, marks=svm_alone),
        pytest.param("the lower image does", 3, [1, 2], {2: 0}, marks=svm_alone),
        ("the image below does", 2, [1, 2], {3: 0}),
        ("a level below does", 3, [1, 2], {2: 0}),
        ("a level above does", 2, [1, 2], {1: 0}),
        ("a level declines", 2, [1, 2], {1: 2}),
        ("L0 does", 2, [0, 0xFF], {1: 0}),
        pytest.param("L0 does SVM's", 2, [0], {1: 1}, marks=svm_alone),
        ("an interrupt", 2, [1, FLAGS | IF], {1: 1}),
        pytest.param("an interrupt through an image", 3, [1, FLAGS | IF], {2: 0}, marks=svm_alone),
        ("an interrupt below an image", 2, [1, FLAGS | IF], {3: 0}),
        ("pages", 2, [0x77], {1: 0}),
        ("a device", 2, [1], {1: 0}),
    ],
)
def test_each_instruction_is_one_event(
    name: str, level: int, kept: list[int], exits: dict[int, int], found: dict[str, Any]
) -> None:
    """Whoever does it; and the guest, and what an image tells of it, know no trap flag."""
    case = found[name]
    assert stepped(case, level) == case["expected"]
    assert case["kept"][: len(kept)] == kept
    assert {number: images(case)[number] for number in exits} == {
        number: (count, count + 1) for number, count in exits.items()
    }


def test_an_image_above_is_stepped_and_what_it_does_for_its_guest_is_none(found: dict[str, Any]) -> None:
    case = found["the image above does"]
    seen, expected = stepped(case, 2), case["expected"]
    assert (seen[:3], seen[-5:]) == (expected[:3], expected[3:])
    own = seen[3:-5]
    assert len(own) > 50, "the image's instructions between"
    assert set(own).isdisjoint(expected)


@pytest.mark.parametrize(
    ("name", "level", "kept"),
    [
        ("INT3", 2, [1, FLAGS]),
        pytest.param("INT3 below an image", 1, [1, FLAGS], marks=svm_alone),
        ("INT3 skipped", 2, [0]),
    ],
)
def test_int3_is_the_levels_before_it_does_anything(
    name: str, level: int, kept: list[int], found: dict[str, Any]
) -> None:
    """Declined it is the guest's, whose handler is stepped; skipped it was none."""
    case = found[name]
    assert [row for row in rows(case, level) if row[0] == BREAK] == [[BREAK, case["expected"][0], level + 1, 0]]
    assert (stepped(case, level), case["kept"][: len(kept)]) == (case["expected"], kept)


@pytest.mark.parametrize(("name", "exits"), [("own traps", 0), ("own traps that an image sees", 5)])
def test_a_guests_own_traps_come_behind_the_event(name: str, exits: int, found: dict[str, Any]) -> None:
    """By its IDT, or as an exit to an image that wants them."""
    case = found[name]
    assert [row[1] for row in rows(case, 2)] == case["expected"]
    assert (case["kept"][:2], images(case)[1]) == ([5, BS], (exits, exits + 1))


def test_an_image_that_stops_for_good_tells_where(found: dict[str, Any]) -> None:
    """The access never happens; and the image itself has no trap flag."""
    case = found["outside"]
    assert (case["status"], stepped(case, 2)) == (ENDED, case["expected"][:1])
    assert f"its guest touched 0x40000000 at {0x100000 + case['expected'][0]:#x}, which" in case["out"]


@svm_alone
def test_of_two_levels_each_steps_through_its_own_guest(found: dict[str, Any]) -> None:
    """What the highest has, the lower one has not; but it sees the image, which the highest does not."""
    alone, both = found["a level below alone"], found["two levels"]
    assert stepped(both, 3) == both["expected"]
    by_guest = Counter(row[1] for row in rows(alone, 1)) - Counter(row[1] for row in rows(both, 1))
    assert Counter(both["expected"]) - by_guest == Counter(both["expected"][at] for at in BY_IMAGE)
    assert images(both)[2][0] == len(BY_IMAGE)
    assert by_guest - Counter(both["expected"]) == Counter()
    assert (both["kept"], both["images"]) == (alone["kept"], alone["images"])
