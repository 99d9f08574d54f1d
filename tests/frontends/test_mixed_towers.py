"""Both methods of nested virtualization with hypervisors of machine code: minivisors and Python levels in one tower.

Towers are written from level 1 up, M a minivisor and P a Python hypervisor; the guest is on top. See mixed_cases.py.
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

pytestmark = pytest.mark.svm_lab

READ, WRITE, EXECUTE, PORT, TIMES = 0, 1, 2, 0x5000, 50
NESTVMM = int.from_bytes(b"nestvmm", "little")
AT, PAGE, CX16 = 0x600000, 0x1000, 1 << 13
IO, WINDOW, INTERRUPT, NMI_WINDOW = 1, 14, 38, 40
ENDED = ("read-only", "block taken below", "block taken above an image")
HEIGHTS = {"P": 2, "M": 2, "PM": 3, "MP": 3, "MPM": 4, "PMPM": 5, "MMPPM": 6}


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    found = found_in(svm_lab, "svm")
    whole = {name: case for name, case in found.items() if name not in ENDED}
    assert {name: case for name, case in whole.items() if "kept" not in case or case["message"]} == {}
    return found


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
    check_declined(found["declined to an image"])


def test_a_declined_string_access_reaches_the_image_as_one(found: dict[str, Any]) -> None:
    case = found["strings declined to an image"]
    last = case["out"].splitlines()[-1]
    assert re.fullmatch(r"minivisor 2: its guest uses port 0x5602 by a string instruction at 0x1000[0-9a-f]{2}", last)
    assert (case["status"], case["out"]) == (253, found["plain strings to an image"]["out"])


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
    assert images(case)[2] == (0, 1)


def test_instructions_that_no_image_wants_go_below_all_of_them(found: dict[str, Any]) -> None:
    case = found["instructions that no image wants"]
    assert case["kept"][0] == 0x1122334455667788
    assert case["kept"][1] & 0xFFF == 2
    assert [row[0] for row in case["seen"][0]] == [2, 2]
    assert images(case)[3] == (0, 1)


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


def test_what_belongs_to_the_lowest_machine_is_refused(found: dict[str, Any]) -> None:
    texts = [text for (text,) in found["reaching"]["heard"][1]]
    assert texts == [
        "L2 stands above an image, so there is no line 1: L0's interrupt controller is the lowest image's, and L3 has "
        "none but what levels below emulate; Guest.interrupt reaches it",
        "the svm engine has no preemption timer; the vmx engine has",
        "interrupt vector 256 is not within 0 to 255",
    ]


@pytest.mark.parametrize("name", ["PM", "MP", "MPM"])
def test_one_hardware_exit_at_any_depth(name: str, found: dict[str, Any]) -> None:
    few, many = found[f"1 reads in {name}"], found[f"{TIMES + 1} reads in {name}"]
    assert many["exits"] - few["exits"] == TIMES
    assert images(many) == images(few), "no image runs for them"
    assert many["kept"] == [TIMES + 1]


# Memory: what Python levels above an image give, of what that gives, and the rights of both.


@pytest.mark.parametrize(("name", "at"), [("pages", AT), ("pages between", AT + (2 << 20))])
def test_a_level_gives_pages_when_its_guest_touches_them(name: str, at: int, found: dict[str, Any]) -> None:
    """Its guest is level 3, in whose addresses it hears of them; between images an address went through one already."""
    case = found[name]
    assert faults(case, 2) == [(3, at + 8, WRITE), (3, at + PAGE, READ)]
    assert case["kept"] == [0, 0x1111, 5]
    assert handled(case, 2) == [(2, "nested-page-fault", 2)]


def test_a_fault_is_that_of_the_level_that_withholds_the_page(found: dict[str, Any]) -> None:
    """Level 3 has its guest's page at 0x700000, which level 2 withholds from it."""
    case = found["pages below another level"]
    assert (faults(case, 2), faults(case, 3)) == ([(3, 0x700000, WRITE)], [])
    assert case["kept"] == [7]


def test_each_right_that_a_level_withholds_is_a_fault(found: dict[str, Any]) -> None:
    case = found["logged"]
    assert faults(case, 2) == [(3, AT, WRITE), (3, AT, EXECUTE)]
    assert case["kept"] == [0xC3]


def test_a_changed_map_holds_at_once(found: dict[str, Any]) -> None:
    """For the guest, and for what the level itself reads and writes of it."""
    case = found["moved"]
    assert case["kept"] == [1, 2, 3, 0x11]
    assert case["heard"][1] == [[1], [2], [2], [3]]
    case = found["moved below an image"]
    assert case["kept"] == [3, 7 * 31 + 3, minivisors_answers(3)]


def test_pages_that_nobody_gives_are_holes(found: dict[str, Any]) -> None:
    for name, reads in ("declined fault", 1), ("unmapped", 2):
        case = found[name]
        assert case["kept"] == [(1 << 64) - 1] * reads
        assert sorted(case["unclaimed"]) == [["mmio", f"{AT:#x}", 1], ["mmio", f"{AT:#x}", reads]]
    assert faults(found["declined fault"], 2) == [(3, AT, READ)]


def test_a_write_to_what_all_levels_keep_read_only_ends_the_run(found: dict[str, Any]) -> None:
    case = found["read-only"]
    message = f"guest at L3 died: it wrote physical address {AT:#x}, which the levels below do not let it\n"
    assert (case["status"], case["message"][: len(message)]) == (255, message)


def test_a_level_above_an_image_has_devices_in_its_guests_memory(found: dict[str, Any]) -> None:
    case = found["device"]
    assert case["seen"][1] == [[3, AT, READ, 4, 0], [3, AT + 4, WRITE, 1, 0x55], [3, AT, READ, 2, 0]]
    assert case["kept"] == [1, 3]


@pytest.mark.parametrize(
    ("where", "address"), [("", AT), (" between images", AT + (2 << 20)), (" to a lower level", AT)]
)
def test_a_device_is_designated_to_a_level_above_an_image(where: str, address: int, found: dict[str, Any]) -> None:
    """At an address of its guest's; level 3 has a device there as well in the last case."""
    case = found[f"device designated{where}"]
    assert (case["seen"][1], case["kept"]) == ([[3, address, READ, 4, 0]], [0x5A])
    assert case["seen"][2:] in ([], [None], [[]])


def test_a_device_is_designated_away(found: dict[str, Any]) -> None:
    """To the image, which has memory there; to L0 or a level below the image, for which there is nothing."""
    case = found["device designated to an image"]
    assert (case["seen"][1], case["kept"], case["unclaimed"]) == ([], [0x77], [])
    for name in "device designated to L0", "device designated below an image":
        case = found[name]
        assert case["kept"] == [0xFFFFFFFF]
        assert [seen for seen in case["seen"] if seen] == []


@pytest.mark.parametrize(("where", "address"), [("", AT), (" between images", AT + (2 << 20))])
def test_faults_are_designated_to_a_level_above_an_image(where: str, address: int, found: dict[str, Any]) -> None:
    case = found[f"fault designated{where}"]
    assert (faults(case, 2), case["kept"]) == ([(3, address, WRITE)], [0x77])
    assert handled(case, 2) == [(2, "nested-page-fault", 1)]


@pytest.mark.parametrize(("where", "image"), [("below", 2), ("above an image", 3)])
def test_a_control_block_that_a_level_takes_away(where: str, image: int, found: dict[str, Any]) -> None:
    """The next exit to the image whose block it is faults in that page; where nobody gives it back, that is all."""
    check_lent(found[f"block lent {where}"], image)
    why = f"a level below level {image + 1} has taken away the memory of the control block that it is run by"
    assert found[f"block taken {where}"] == {"refused": why}


# Interrupts and NMIs that a Python level above an image injects: no image sees them.


@pytest.mark.parametrize("name", ["interrupt", "interrupt above two images", "interrupt through an image"])
def test_an_injected_interrupt_waits_until_the_guest_takes_interrupts(name: str, found: dict[str, Any]) -> None:
    """Level 3 is a minivisor in the last one, whose guest takes what comes while it runs."""
    case = found[name]
    assert case["kept"] == [1, 0, 1], "none with RFLAGS.IF clear"
    assert images(case)[max(images(case))] == (0, 1)


def test_of_two_interrupts_the_higher_comes_first(found: dict[str, Any]) -> None:
    assert found["two interrupts"]["kept"] == [2, 0, 0, 0, 0, 0], "the higher one's handler kept 0"


@pytest.mark.parametrize(("name", "level"), [("interrupt window", 2), ("window of the upper level", 4)])
def test_a_window_opens_when_the_guest_takes_interrupts(name: str, level: int, found: dict[str, Any]) -> None:
    """Asked for, then a port access with RFLAGS.IF clear, the window, and one behind the interrupt."""
    case = found[name]
    at = level + 1
    assert case["seen"][level - 1] == [[IO, at, 3], [IO, at, 0x20], [WINDOW, at, 0], [IO, at, 0x21]]
    assert case["kept"] == [1]
    assert case["seen"][1] == [] or level == 2, "the lower level claims windows, too: of its own guest"


def test_an_open_window_is_told_at_once(found: dict[str, Any]) -> None:
    case = found["open interrupt window"]
    assert (case["seen"][1], case["kept"]) == ([[IO, 3, 3], [WINDOW, 3, 0]], [1])


def test_an_nmi_waits_for_the_end_of_the_handler_of_another(found: dict[str, Any]) -> None:
    assert found["NMI"]["kept"] == [2, 2, 1], "the second one's handler found the first one's end"


def test_nmi_windows_open_outside_handlers(found: dict[str, Any]) -> None:
    case = found["NMI window"]
    assert (case["seen"][1], case["kept"]) == ([[IO, 3, 4], [NMI_WINDOW, 3, 0], [IO, 3, 0x22]], [1, 1])
    case = found["NMI window in a handler"]
    first = [[IO, 3, 2], [IO, 3, 7], [IO, 3, 0x31], [NMI_WINDOW, 3, 0]]
    assert case["seen"][1] == [*first, [IO, 3, 7], [IO, 3, 0x31]]


@pytest.mark.parametrize(("name", "kept"), [("halted", [1, 1]), ("from a thread", [1])])
def test_another_thread_injects(name: str, kept: list[int], found: dict[str, Any]) -> None:
    """The guest halts, or waits in a loop."""
    assert found[name]["kept"] == kept


@pytest.mark.parametrize(("name", "kept"), [("arriving", KEPT), ("arriving and passed", PASSED)])
def test_what_an_image_injects_arrives_at_the_level_above_it(name: str, kept: list[int], found: dict[str, Any]) -> None:
    """It keeps that from its guest, or leaves it to it; the image injected, and sees nothing of that."""
    check_arriving(found[name], kept, 2)
    assert images(found[name])[1] == images(found["arriving at none"])[1] == (2, 3)
    assert found["arriving at none"]["kept"] == PASSED, "where no level claims it the guest takes it"


def test_what_arrives_early_waits_at_the_guest(found: dict[str, Any]) -> None:
    """SVM injects with RFLAGS.IF clear, too: level 2 declines, and its guest takes it when it can."""
    case = found["arriving early"]
    assert (case["seen"][1], case["kept"]) == ([[INTERRUPT, 3, 0x40]], [1, 0, 0, 0]), "result 3 is result 0 before STI"


def test_a_level_gives_its_guest_another_interrupt(found: dict[str, Any]) -> None:
    assert found["arriving as another"]["kept"] == [0, 1, 0, 0]


@pytest.mark.parametrize(("more", "kept"), [("", KEPT), (" and passed", PASSED)])
def test_what_passes_an_image_arrives_above_it(more: str, kept: list[int], found: dict[str, Any]) -> None:
    """Level 1 injects into the image, which intercepts neither; between images; at one that runs its guest."""
    check_arriving(found[f"arriving through an image{more}"], kept, 3)
    assert images(found[f"arriving through an image{more}"])[2] == (0, 1), "no exit to it"
    check_arriving(found[f"arriving below an image{more}"], kept, 2)
    check_arriving(found[f"arriving at a running image{more}"], kept, 2)
    assert images(found[f"arriving at a running image{more}"])[3] == (0, 1), "nor to the one above"


def test_what_arrives_comes_to_the_lowest_level_first(found: dict[str, Any]) -> None:
    check_arriving(found["arriving at two levels"], KEPT, 2, 4)
    check_arriving(found["arriving designated"], PASSED, 2)


def test_an_image_has_nothing_of_a_window_of_a_level_below_it(found: dict[str, Any]) -> None:
    """Whatever its guest did last: an exit to it, of which it hears once."""
    case = found["interrupt window behind an image's exit"]
    assert (case["seen"][1], case["kept"], images(case)[3]) == ([[WINDOW, 3, 0]], [1], (1, 2))


# CPUID as an image answers it, changed by levels above that.


def test_a_level_changes_what_the_image_below_answers(found: dict[str, Any]) -> None:
    """The minivisor at level 1 answers EAX = 1; the level appends its guest's, adds a leaf and takes one away."""
    vendor = [int.from_bytes(part, "little") for part in (b"mini", b"viso", b"rSVM")]
    rest = [*vendor, 3, 2, 3, 4, 0, 0, 0, 0]
    case = found["answers"]
    assert case["kept"] == [0x13, *rest]
    assert images(case)[1] == (3, 4), "the image answers each"
    case = found["answers to two levels"]
    assert case["kept"] == [0x134, *vendor, 4, *rest[4:]]
    case = found["answers below an image"]
    assert case["kept"] == [0x13, *rest], "level 3's minivisor passes on what it is answered"


def test_what_a_level_answers_itself_is_for_those_above_it_to_change(found: dict[str, Any]) -> None:
    """Level 2 answers the added leaf by a handler, so it changes none; level 3's own takes its place."""
    case = found["answers of its own"]
    assert [leaf for (leaf,) in case["seen"][1]] == [0x4E560001, 0x80000002]
    assert [leaf for (leaf,) in case["seen"][2]] == [0x4E560001, 0x4E560077, 0x80000002]
    assert case["kept"][4] == 4


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
    assert images(few) == images(many)
    assert images(many)[3] == (0, 1)
    assert [0, "msr_block", "rdmsr", TIMES + 1] in many["rows"]


def test_what_level_1_switches_off_is_off_above_images(found: dict[str, Any]) -> None:
    case = found["feature off"]
    assert case["status"] == 13
    assert [0, "msr_block off", "rdmsr", 1] in case["rows"]


# What the account and the trace say.


def test_the_account_counts_what_each_image_did(found: dict[str, Any]) -> None:
    case = found["asks 2"]
    assert [row[:2] for row in case["images"]] == [[2, "minivisor-svm.elf"], [4, "minivisor-svm.elf"]]
    assert case["images"][1] == [4, "minivisor-svm.elf", 2, 3, 1], "two exits; three VMRUNs; VMLOAD at its start"
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
