"""Mixed towers on VMX by software: the same cases as in test_mixed_towers.py, those that show what the vendor does.

Towers are written from level 1 up, M a minivisor and P a Python hypervisor; the guest is on top.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from mixed_checks import (
    KEPT,
    PASSED,
    check_arriving,
    check_declined,
    check_lent,
    faults,
    found_in,
    handled,
    images,
    minivisors_answers,
)

from nestvmm.lab import Lab

pytestmark = pytest.mark.vmx_lab

PORT = 0x5000
READ, WRITE, EXECUTE = 0, 1, 2
IO, WINDOW, NMI_WINDOW, TIMER = 1, 14, 40, 48
TIMES = 50
AT, PAGE = 0x600000, 0x1000
# Each takes this lab seconds.
CASES = (
    *("reads in MPM", f"{TIMES + 1} reads in MPM", "asks 2", "highest of two", "image below a claim", "traced"),
    *("declined to an image", "propagated", "instructions", "feature at each height", "pages between", "moved"),
    *("device", "interrupt through an image", "interrupt window", "NMI window in a handler", "answers"),
    *("arriving", "arriving and passed", "arriving through an image", "arriving through an image and passed"),
    *("plain strings to an image", "strings declined to an image"),
    *("arriving at two levels", "arriving designated", "interrupt window behind an image's exit"),
    *("timer", "timer declined", "timer between images", "two timers", "timers below and above an image"),
    *("device designated between images", "device designated to an image", "fault designated between images"),
    *("block lent below", "block lent above an image"),
)


@pytest.fixture(scope="module")
def found(vmx_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    found = found_in(vmx_lab, "vmx", *CASES)
    assert {name: case for name, case in found.items() if "kept" not in case or case["message"]} == {}
    return found


def test_l0_finds_the_designated_level(found: dict[str, Any]) -> None:
    """A Python level between two images, an image between Python levels; the highest of several."""
    assert (handled(found["reads in MPM"], 2), found["reads in MPM"]["kept"]) == ([(2, "io", 1)], [1])
    case = found["asks 2"]
    assert case["kept"] == [2, 7 * 31 + 2, minivisors_answers(2)]
    assert set(handled(case, 2)) >= {(2, "io", 2), (2, "hypercall", 1)}
    assert case["seen"] == [[], None, [], None]
    case = found["highest of two"]
    assert [len(case["seen"][at]) for at in (0, 2)] == [0, 1]


def test_what_a_python_level_handles_is_invisible_to_the_image(found: dict[str, Any]) -> None:
    case = found["image below a claim"]
    assert [len(case["seen"][at]) for at in (0, 2)] == [0, 3]
    assert (case["kept"], images(case)[2]) == ([2, 3], (0, 1))


def test_what_the_highest_declines_goes_to_the_image_below(found: dict[str, Any]) -> None:
    check_declined(found["declined to an image"])


def test_a_declined_string_access_reaches_the_image_as_one(found: dict[str, Any]) -> None:
    """With its linear address, as one that no level claimed."""
    declined, plain = found["strings declined to an image"], found["plain strings to an image"]
    pattern = (
        r"minivisor 2: its guest uses port 0x5602 by a string instruction at 0x1000[0-9a-f]{2}, memory at 0x120008"
    )
    assert re.fullmatch(pattern, declined["out"].splitlines()[-1])
    assert declined["out"] == plain["out"]
    assert (declined["status"], images(declined), images(plain)) == (253, {2: (1, 1)}, {2: (1, 1)})


def test_instructions_that_a_level_claims_are_its_own_above_images(found: dict[str, Any]) -> None:
    case = found["instructions"]
    assert {reason: count for _, reason, count in handled(case, 3)} == {
        "cpuid": 1,
        "hypercall": 1,
        "rdmsr": 1,
        "exception": 1,
    }
    assert [value & 0xFFF for value in case["kept"]] == [4, 4, 0x788, 4]
    assert images(case)[2] == (0, 1)


def test_effects_reach_level_n_and_those_between(found: dict[str, Any]) -> None:
    """PMPMP: x is 3; what it reads and takes is what levels 4 to 6 did."""
    case = found["propagated"]
    assert case["last"] == [[None, None], [None, None], [1, 0x77], [1, 0x77], [1, 0x77]]
    assert case["heard"] == [[], None, [], None, [[6, PORT, 1], [6, PORT, 0x77]]]


def test_one_hardware_exit_at_any_depth(found: dict[str, Any]) -> None:
    few, many = found["reads in MPM"], found[f"{TIMES + 1} reads in MPM"]
    assert many["exits"] - few["exits"] == TIMES
    assert images(many) == images(few), "no image runs for them"
    assert many["kept"] == [TIMES + 1]


def test_an_event_of_an_exposed_feature_is_emulated_in_l0(found: dict[str, Any]) -> None:
    case = found["feature at each height"]
    assert case["kept"][:3] == [int.from_bytes(b"nestvmm", "little"), 4, 0x1122334455667788]
    assert [row for row in case["rows"] if row[1] == "msr_block"] == [
        [0, "msr_block", "rdmsr", 3],
        [0, "msr_block", "wrmsr", 1],
    ]


def test_the_account_and_the_trace_say_what_each_image_did(found: dict[str, Any]) -> None:
    case = found["asks 2"]
    assert [row[:2] for row in case["images"]] == [[2, "minivisor-vmx.elf"], [4, "minivisor-vmx.elf"]]
    lines = [(one["level"], one["reason"], one["handler"], one["who"]) for one in found["traced"]["trace"]]
    assert (4, "io", 2, "Counting") in lines
    assert (4, "cpuid", 3, "minivisor-vmx.elf") in lines
    assert lines.count((4, "io", 3, "minivisor-vmx.elf")) == 2


def test_a_level_above_an_image_maps_memory(found: dict[str, Any]) -> None:
    case, at = found["pages between"], AT + (2 << 20)
    assert (faults(case, 2), case["kept"]) == ([(3, at + 8, WRITE), (3, at + PAGE, READ)], [0, 0x1111, 5])
    case = found["moved"]
    assert (case["kept"], case["heard"][1]) == ([1, 2, 3, 0x11], [[1], [2], [2], [3]])
    case = found["device"]
    assert case["seen"][1] == [[3, AT, READ, 4, 0], [3, AT + 4, WRITE, 1, 0x55], [3, AT, READ, 2, 0]]


@pytest.mark.parametrize(("where", "image"), [("below", 2), ("above an image", 3)])
def test_a_control_block_that_a_level_takes_away(where: str, image: int, found: dict[str, Any]) -> None:
    check_lent(found[f"block lent {where}"], image)


def test_a_level_above_an_image_injects(found: dict[str, Any]) -> None:
    assert found["interrupt through an image"]["kept"] == [1, 0, 1]
    case = found["interrupt window"]
    assert case["seen"][1] == [[IO, 3, 3], [IO, 3, 0x20], [WINDOW, 3, 0], [IO, 3, 0x21]]
    case = found["NMI window in a handler"]
    first = [[IO, 3, 2], [IO, 3, 7], [IO, 3, 0x31], [NMI_WINDOW, 3, 0]]
    assert case["seen"][1] == [*first, [IO, 3, 7], [IO, 3, 0x31]]


@pytest.mark.parametrize(("more", "kept"), [("", KEPT), (" and passed", PASSED)])
def test_what_comes_from_below_arrives_at_a_level_above_an_image(
    more: str, kept: list[int], found: dict[str, Any]
) -> None:
    check_arriving(found[f"arriving{more}"], kept, 2)
    assert images(found[f"arriving{more}"])[1] == (2, 3)
    check_arriving(found[f"arriving through an image{more}"], kept, 3)
    assert images(found[f"arriving through an image{more}"])[2] == (0, 1), "no exit to it"


def test_what_arrives_comes_to_the_lowest_level_first(found: dict[str, Any]) -> None:
    check_arriving(found["arriving at two levels"], KEPT, 2, 4)
    check_arriving(found["arriving designated"], PASSED, 2)


def test_an_image_has_nothing_of_a_window_of_a_level_below_it(found: dict[str, Any]) -> None:
    """Its guest's entry is the last exit when that opens."""
    case = found["interrupt window behind an image's exit"]
    assert (case["seen"][1], case["kept"], images(case)[3]) == ([[WINDOW, 3, 0]], [1], (1, 2))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("timer", [2]),
        ("timer declined", [2]),
        ("timer between images", [2]),
        ("two timers", [2, 4]),
        ("timers below and above an image", [1, 3]),
    ],
)
def test_a_level_above_an_image_has_a_preemption_timer(name: str, levels: list[int], found: dict[str, Any]) -> None:
    """Each that asked hears of its own; no image does."""
    case = found[name]
    assert case["kept"] == [1] * len(levels)
    seen = {number: rows for number, rows in enumerate(case["seen"], start=1) if rows}
    assert seen == {level: [[TIMER, level + 1, 0, 52]] for level in levels}
    assert images(case)[max(images(case))] == (0, 1)


def test_physical_addresses_are_designated_above_images(found: dict[str, Any]) -> None:
    case, at = found["device designated between images"], AT + (2 << 20)
    assert (case["seen"][1], case["kept"]) == ([[3, at, READ, 4, 0]], [0x5A])
    case = found["device designated to an image"]
    assert (case["seen"][1], case["kept"]) == ([], [0x77])
    case = found["fault designated between images"]
    assert (faults(case, 2), case["kept"]) == ([(3, at, WRITE)], [0x77])


def test_a_level_above_an_image_changes_what_that_answers_to_cpuid(found: dict[str, Any]) -> None:
    vendor = [int.from_bytes(part, "little") for part in (b"mini", b"viso", b"rVMX")]
    assert found["answers"]["kept"] == [0x13, *vendor, 3, 2, 3, 4, 0, 0, 0, 0]
