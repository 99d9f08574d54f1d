"""Both methods of nested virtualization with hypervisors of machine code: minivisors and Python levels in one tower.

Towers are written from level 1 up, M a minivisor and P a Python hypervisor; the guest is on top. See mixed_cases.py.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from command import guest
from lab_cases import run_cases

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

PORT, OWN_PORT = 0x5000, 0x5600
READ, WRITE = 0, 1
TIMES = 50
NESTVMM = int.from_bytes(b"nestvmm", "little")
CX16 = 1 << 13
HEIGHTS = {"P": 2, "M": 2, "PM": 3, "MP": 3, "MPM": 4, "PMPM": 5, "MMPPM": 6}


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    guest("minivisor")
    found = run_cases(svm_lab, "frontends/mixed_cases.py", timeout=240)
    assert [(name, case) for name, case in found.items() if case["message"]] == []
    return found


def handled(case: dict[str, Any], *levels: int) -> list[tuple[int, str, int]]:
    """Level, reason and count of what these levels handled."""
    return [(level, reason, count) for level, _, reason, count in case["rows"] if level in levels]


def images(case: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """Exits that went to each image, and how often that entered its guest."""
    return {level: (exits, entries) for level, _, exits, entries, _ in case["images"]}


def minivisors_answers(level: int, count: int = 0) -> int:
    """What the port of the minivisor at this level reads after 3 was written."""
    return (3 * 31 + level + count) % 256


# Trap at L0, and find the designated hypervisor.


@pytest.mark.parametrize("name", HEIGHTS)
def test_an_event_of_level_n_traps_at_l0(name: str, found: dict[str, Any]) -> None:
    """Whatever is between: one that a Python level has goes there, none has it in M."""
    case = found[f"reads in {name}"]
    owner = max((at for at, kind in enumerate(name, start=1) if kind == "P" and case["seen"][at - 1]), default=0)
    assert (case["status"], case["kept"]) == (0, [1 if owner else 0xFF])
    assert (owner if owner else 0, "io", 1) in handled(case, owner)
    assert case["unclaimed"] == ([] if owner else [["io", f"{PORT:#x}", 1]])


@pytest.mark.parametrize("x", [2, 4])
def test_l0_finds_the_designated_image(x: int, found: dict[str, Any]) -> None:
    """In PMPM: what the control block of level 2 or level 4 asks for goes straight there."""
    case = found[f"asks {x}"]
    assert case["kept"] == [x, 7 * 31 + x, minivisors_answers(x)]
    assert set(handled(case, x)) >= {(x, "io", 2), (x, "hypercall", 1)}
    assert case["seen"] == [[], None, [], None]


def test_of_several_it_is_the_highest_level(found: dict[str, Any]) -> None:
    """P below, image, P above: the upper Python level; an image above Python; Python above the image."""
    case = found["highest of two"]
    assert [len(case["seen"][at]) for at in (0, 2)] == [0, 1]
    case = found["image above a claim"]
    assert (case["seen"][0], case["kept"]) == ([], [minivisors_answers(2), minivisors_answers(2, 1)])
    case = found["image below a claim"]
    assert [len(case["seen"][at]) for at in (0, 2)] == [0, 3]
    assert case["kept"] == [2, 3]
    assert images(case)[2] == (0, 1), "what a Python level handles is invisible to the image"


def test_what_the_highest_declines_goes_to_the_image_below(found: dict[str, Any]) -> None:
    """As if nothing had happened before: the image sees each access once, and level 1 none."""
    case = found["declined to an image"]
    assert case["kept"] == [minivisors_answers(2), minivisors_answers(2, 1)]
    assert [[row[:3] for row in case["seen"][at]] for at in (0, 2)] == [
        [],
        [[4, OWN_PORT + 2, WRITE], [4, OWN_PORT + 2, READ], [4, OWN_PORT + 2, READ]],
    ]
    assert images(case)[2] == (3, 4)
    assert handled(case, 1, 2, 3) == [(2, "io", 3)]


def test_a_declined_string_access_reaches_the_image_as_one(found: dict[str, Any]) -> None:
    case = found["strings declined to an image"]
    last = case["out"].splitlines()[-1]
    assert re.fullmatch(r"minivisor 2: its guest uses port 0x5602 by a string instruction at 0x1000[0-9a-f]{2}", last)
    assert case["status"] == 253


def test_what_the_highest_declines_goes_past_an_image_that_does_not_want_it(found: dict[str, Any]) -> None:
    case = found["declined past an image"]
    assert (case["kept"], images(case)[2]) == ([1], (0, 1))
    assert [row[0] for at in (0, 2) for row in case["seen"][at]] == [2, 4]


def test_a_hypervisor_may_hand_an_event_to_one_below_an_image(found: dict[str, Any]) -> None:
    case = found["handed past an image"]
    assert [[row[0] for row in case["seen"][at]] for at in (0, 1, 3)] == [[2], [], [5]]


def test_the_user_designates_a_lower_level(found: dict[str, Any]) -> None:
    """`--designate` takes events from an image, or from the levels above it."""
    case = found["designated below an image"]
    assert (handled(case, 1, 2), images(case)[2]) == ([(1, "io", 3)], (0, 1))
    case = found["designated to an image"]
    assert (handled(case, 1, 2, 3), images(case)[2]) == ([(2, "io", 3)], (3, 4))


def test_when_none_is_designated_l0_handles_it(found: dict[str, Any]) -> None:
    case = found["nobody"]
    assert case["kept"] == [0xE9, 0xFFFF]
    assert case["unclaimed"] == [["io", "0x61f0", 1]]


# Transform, emulate, propagate, resume.


def test_the_event_is_transformed_to_one_that_level_x_plus_1_caused(found: dict[str, Any]) -> None:
    case = found["transformed"]
    assert case["seen"][0] == [[2, PORT, WRITE, 2, 0x1234]]


def test_an_image_sees_it_as_its_own_guests(found: dict[str, Any]) -> None:
    """Level 3's minivisor executes CPUID itself for what is not its own: that is an event of level 3 to level 2."""
    case = found["instructions between"]
    assert case["seen"][1] == [[3, 0x4E567000, 2, 0, 0]]
    assert handled(case, 2, 3) == [(3, "cpuid", 1), (2, "cpuid", 1)]


def test_instructions_that_a_level_claims_are_its_own_above_images(found: dict[str, Any]) -> None:
    case = found["instructions"]
    reasons = {reason: count for _, reason, count in handled(case, 3)}
    assert reasons == {"cpuid": 1, "hypercall": 1, "rdmsr": 1, "exception": 1}
    assert [value & 0xFFF for value in case["kept"]] == [4, 4, 0x788, 4]
    assert images(case) == {1: (8, 9), 2: (0, 1)}, "two CPUIDs and six accesses to MSRs of level 2's"


def test_instructions_that_no_image_wants_go_below_all_of_them(found: dict[str, Any]) -> None:
    case = found["instructions that no image wants"]
    assert case["kept"][0] == 0x1122334455667788
    assert case["kept"][1] & 0xFFF == 2
    assert [row[0] for row in case["seen"][0]] == [2, 2]
    assert images(case) == {2: (8, 9), 3: (0, 1)}


def test_its_exception_is_taken_by_level_n(found: dict[str, Any]) -> None:
    case = found["faulting"]
    assert (case["status"], case["kept"]) == (13, [0])


def test_its_effects_are_propagated_to_levels_x_plus_1_to_n(found: dict[str, Any]) -> None:
    """PMPMP: x is 3; what it reads and takes is what levels 4 to 6 did."""
    case = found["propagated"]
    assert case["last"] == [[None, None], [None, None], [1, 0x77], [1, 0x77], [1, 0x77]]
    assert case["heard"] == [[], None, [], None, [[6, PORT, 1], [6, PORT, 0x77]]]


def test_registers_and_memory_that_x_writes_are_level_ns(found: dict[str, Any]) -> None:
    case = found["writing"]
    assert case["kept"][:2] == [0x5A, 0x0123456789ABCDEF]
    case = found["writing at the top"]
    assert case["seen"][2][1] == list(range(1, 9))
    assert case["kept"] == [int.from_bytes(b"written!", "little")]
    assert case["heard"][2] == [["L4 physical memory 0x10000000000+0x7: it cannot write all of that"]]


def test_what_belongs_to_the_image_below_is_refused(found: dict[str, Any]) -> None:
    texts = [text for (text,) in found["reaching"]["heard"][1]]
    what = ["memory", "memory", "interrupts", "NMIs", "interrupts"]
    assert texts == [f"L2 stands above an image, which decides on its guest's {one}" for one in what]


@pytest.mark.parametrize("name", ["PM", "MP", "MPM"])
def test_one_hardware_exit_at_any_depth(name: str, found: dict[str, Any]) -> None:
    few, many = found[f"1 reads in {name}"], found[f"{TIMES + 1} reads in {name}"]
    assert many["exits"] - few["exits"] == TIMES
    assert images(many) == images(few), "no image runs for them"
    assert many["kept"] == [TIMES + 1]


# Features: exposed by each level to the next, emulated in L0.


def test_features_of_both_sets_are_seen_through_images(found: dict[str, Any]) -> None:
    """Each minivisor answers its guest's CPUID by its own: so it detects features, and enables them for the next."""
    case = found["features"]
    _, _, _, edx, ours, _, _, _ = case["kept"]
    assert edx & 1
    assert ours & 1, "msr_block"


@pytest.mark.parametrize(("name", "height"), [("features", 5), ("feature at each height", 4)])
def test_an_event_of_an_exposed_feature_is_emulated_in_l0(name: str, height: int, found: dict[str, Any]) -> None:
    case = found[name]
    assert case["kept"][:3] == [NESTVMM, height, 0x1122334455667788]
    assert [row for row in case["rows"] if row[1] == "msr_block"] == [
        [0, "msr_block", "rdmsr", 3],
        [0, "msr_block", "wrmsr", 1],
    ]


def test_it_is_emulated_without_a_switch_into_the_levels_that_expose_it(found: dict[str, Any]) -> None:
    few, many = found["1 uses of a feature"], found[f"{TIMES + 1} uses of a feature"]
    assert many["exits"] - few["exits"] == TIMES
    assert images(few) == images(many) == {1: (8, 9), 3: (0, 1)}
    assert [0, "msr_block", "rdmsr", TIMES + 1] in many["rows"]


def test_what_level_1_switches_off_is_off_above_images(found: dict[str, Any]) -> None:
    case = found["feature off"]
    assert case["status"] == 13
    assert [0, "msr_block off", "rdmsr", 1] in case["rows"]


# What the account and the trace say.


def test_the_account_counts_what_each_image_did(found: dict[str, Any]) -> None:
    case = found["asks 2"]
    assert case["images"] == [[2, "minivisor-svm.elf", 12, 13, 1], [4, "minivisor-svm.elf", 2, 3, 1]]
    for level, who, exits, entries, _ in case["images"]:
        assert sum(row[3] for row in case["rows"] if row[:2] == [level, who]) == exits == entries - 1
    (instructions,) = [row[3] for row in case["rows"] if row[2] == "svm-instruction"]
    assert sum(entries + served for _, _, _, entries, served in case["images"]) == instructions


def test_the_trace_tells_who_caused_and_who_handled(found: dict[str, Any]) -> None:
    lines = [(one["level"], one["reason"], one["handler"], one["who"]) for one in found["traced"]["trace"]]
    assert (4, "io", 2, "Counting") in lines
    assert (4, "cpuid", 3, "minivisor-svm.elf") in lines
    assert lines.count((4, "io", 3, "minivisor-svm.elf")) == 2
    assert lines.count((3, "svm-instruction", 0, "L0")) == 6
    assert len(lines) == found["traced"]["exits"]
