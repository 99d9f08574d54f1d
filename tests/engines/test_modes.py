"""The svm and vmx engines: guests at CPL 3, in 32-bit protected mode and in real mode, with exact exits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from lab_cases import run_cases
from vendors import named, svm_alone, vmx_alone

from nestvmm.lab import Lab

CODE, LEAF, ANSWER = 0x100000, 0x40000123, 0x7777
READ, WRITE, EXECUTE = 0, 1, 2

# Where the instruction is, as the mode's RIP; and how many exits come before: svm's, of EFER, which is read and written
# on the way.
MODES = {"protected": (CODE + 87, 2), "real": (45, 2), "user": (CODE + 129, 0)}
# Exit code and basic exit reason, qualifier, direction, size, value, exit qualification, length.
REASONS = {
    "cpuid": (0x72, 10, LEAF, EXECUTE, 0, 0, 0, 2),
    "rdtsc": (0x6E, 16, 0, EXECUTE, 0, 0, 0, 2),
    "hlt": (0x78, 12, 0, EXECUTE, 0, 0, 0, 1),
    "cr0 read": (0x00, None, 0, READ, 4, 0, 0, 3),
    "cr4 write": (0x14, 28, 4, WRITE, 4, 0x80, 4, 3),
    "int 0x55": (0x75, None, 0x55, EXECUTE, 0, 0, 0, 2),
    "into": (0x75, None, 4, EXECUTE, 0, 0, 0, 1),
    "pushf": (0x70, None, 0, EXECUTE, 0, 0, 0, 1),
    "ud": (0x46, 0, 6, EXECUTE, 0, 0, 0, 0),
}
# Bytes of ADD before INTO.
SETUP = {("protected", "into"): 3, ("real", "into"): 4}

# EAX and EBX behind it, and the RIP that its handler found.
ANSWERED = {
    **{f"protected {name} answer": (ANSWER, 0, 0) for name in ("cpuid", "hlt", "int 0x55", "into")},
    **{f"real {name} answer": (ANSWER, 0, 0) for name in ("cpuid", "hlt", "int 0x55", "into")},
    **{f"user {name} answer": (ANSWER, 0, 0) for name in ("cpuid", "rdtsc", "int 0x55")},
    "protected cr0 read answer": (0, ANSWER, 0),
    "protected ud skip": (0, 0, 0),
    "real ud skip": (0, 0, 0),
}
# A handler leaves the RIP that it found in EAX; a fault's does not return. CPUID has nothing at that leaf; for what is
# beyond Intel's processors give their last one, 0xd, of which there is subleaf 0.
DECLINED = {
    "protected cpuid decline": (0, 0, 0),
    "real cpuid decline": (0, 0, 0),
    "user cpuid decline": {"svm": (0, 0, 0), "vmx": (7, 0x240, 0)},
    "protected cr0 read decline": (0, 0x31, 0),
    "protected cr4 write decline": (0x80, 0, 0),
    "protected int 0x55 decline": (CODE + 89, 0, CODE + 89),
    "real int 0x55 decline": (47, 0, 47),
    "user int 0x55 decline": (CODE + 131, 0, CODE + 131),
    "protected into decline": (CODE + 91, 0, CODE + 91),
    "real into decline": (50, 0, 50),
    "protected pushf decline": (0x46, 0, 0),  # without L0's trap flag; the zero flag is an AND's
    "real pushf decline": (0x06, 0, 0),
    "protected ud decline": (0, 0, CODE + 87),
    "real ud decline": (0, 0, 45),
}


def that_exit(names: Iterable[str]) -> pytest.MarkDecorator:
    """The parameter `name`: not all of them are exits of VMX."""
    return named(names, svm_alone, lambda name: REASONS[" ".join(name.split()[1:-1])][1] is None)


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(vendor_lab, f"engines/{vendor}_cases.py", "modes")


@that_exit([*ANSWERED, *DECLINED, "user rdtsc decline"])
def test_a_level_sees_the_exit_in_every_mode(name: str, vendor: str, found: dict[str, Any]) -> None:
    mode, *middle, _ = name.split()
    reason = " ".join(middle)
    code, basic, qualifier, direction, size, value, info, length = REASONS[reason]
    rip, before = MODES[mode]
    case = found[name]
    # paging is switched off by a read of CR0, too, which is not the last one
    event = case["seen"][0].pop()
    assert [other["raw"] for other in case["seen"][0]] == ([0] if reason == "cr0 read" else [])
    assert case["exits"] == 2 + len(case["seen"][0]) + (before if vendor == "svm" else 0)
    instruction = event.pop("instruction")
    if reason != "ud":
        # VMX tells the length alone
        assert len(instruction) == (2 * length if vendor == "svm" else 0)
    expected = {"raw": code if vendor == "svm" else basic, "qualifier": qualifier, "direction": direction, "size": size}
    expected |= {"value": value, "info": info if vendor == "vmx" else 0, "length": length}
    assert event == {**expected, "rip": rip + SETUP.get((mode, reason), 0) - CODE}


@that_exit(ANSWERED)
def test_the_guest_takes_the_answer(name: str, found: dict[str, Any]) -> None:
    case = found[name]
    assert (case["status"], case["message"], tuple(case["kept"])) == (0, "", ANSWERED[name])


@that_exit(DECLINED)
def test_what_is_declined_happens(name: str, vendor: str, found: dict[str, Any]) -> None:
    case, kept = found[name], DECLINED[name]
    expected = kept[vendor] if isinstance(kept, dict) else kept
    assert (case["status"], case["message"], tuple(case["kept"])) == (0, "", expected)


@vmx_alone
@pytest.mark.parametrize("does", ["answer", "decline"])
def test_vmx_has_no_exit_for_reads_of_cr0(does: str, found: dict[str, Any]) -> None:
    case = found[f"protected cr0 read {does}"]
    assert (case["status"], case["exits"], case["seen"][0], case["kept"]) == (0, 1, [], [0, 0x31, 0])


def test_a_declined_rdtsc_at_cpl_3_tells_the_time(found: dict[str, Any]) -> None:
    case = found["user rdtsc decline"]
    assert (case["status"], case["kept"][1:]) == (0, [0, 0])
    assert case["kept"][0] not in (0, ANSWER)


def test_a_fault_in_real_mode_has_no_error_code(found: dict[str, Any]) -> None:
    """The handler of #GP finds IP on top of its stack."""
    assert (found["real fault"]["status"], found["real fault"]["kept"]) == (0, [0, 0, 45])


# What the tasks keep, and how many switches a level sees under vmx.
TASKS = {
    "task switch": ([ANSWER, 0x1234, 0], 1),
    "task switch declined": ([0x68, 0x1234, 0], 1),
    "task call": ([0x68, 0x1234, 0x5670], 2),
    "task gate": ([0xF0, 0x30, 0], 1),
    "task interrupt": ([0x68, 0x1234, 0x5670], 2),
    "task narrow": ([0x68, 0x1234, 0], 1),
    "task paged": ([0x68, 0, 0], 1),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_new_task_runs(name: str, vendor: str, found: dict[str, Any]) -> None:
    """VMX leaves task switches to hypervisors; what L0 does is what a processor does, which svm's is."""
    kept, switches = TASKS[name]
    if vendor == "svm" and name == "task switch":
        kept = TASKS["task switch declined"][0]
    case = found[name]
    assert (case["status"], case["message"], case["kept"]) == (0, "", kept)
    # QEMU's processor does not trap them: nothing in its switch_tss_ra looks for an intercept. Fails once it traps.
    assert len(case["seen"][0]) == (switches if vendor == "vmx" else 0)


@vmx_alone
def test_a_level_sees_a_task_switch(found: dict[str, Any]) -> None:
    jump = {"raw": 9, "qualifier": 0x68, "direction": EXECUTE, "size": 0, "value": 0, "info": 2 << 30 | 0x68}
    for name in ("task switch", "task switch declined"):
        assert found[name]["seen"][0] == [{**jump, "rip": 85, "length": 7, "instruction": ""}]
    assert [event["info"] for event in found["task call"]["seen"][0]] == [0x68, 1 << 30 | 0x30]
    assert [event["info"] >> 30 for event in found["task interrupt"]["seen"][0]] == [3, 1]


# Source as the exit qualification has it (CALL 0, IRET 1, a gate of the IDT 3), and the instruction's length. Of INT1
# KVM makes an exception behind the instruction, as it looks at each #DB itself (is_icebp in handle_exception_nmi).
LENGTHS = {
    "int": (3, 2), "int with a prefix": (3, 3), "int3": (3, 1), "int of 3": (3, 2), "into": (3, 1), "int1": (3, 0),
    "call": (0, 7), "call of a gate": (0, 7), "call by memory": (0, 6),
}  # fmt: skip


def test_each_way_to_a_task_goes_on_behind_it(vendor: str, found: dict[str, Any]) -> None:
    case = found["task sources"]
    assert (case["status"], case["message"], case["kept"]) == (0, "", [len(case["names"]), 0, 0])
    assert len(case["seen"][0]) == (2 * len(case["names"]) if vendor == "vmx" else 0)


@vmx_alone
@pytest.mark.parametrize("name", LENGTHS)
def test_a_task_switch_tells_the_length_of_its_instruction(name: str, found: dict[str, Any]) -> None:
    """Of one by a gate of the IDT, too, if an instruction leads there (28.2.5)."""
    case = found["task sources"]
    number = 2 * case["names"].index(name)
    told = [(event["info"] >> 30, event["length"]) for event in case["seen"][0][number : number + 2]]
    assert told == [LENGTHS[name], (1, 1)]


@vmx_alone
def test_a_task_switch_by_an_exception_has_no_instruction(found: dict[str, Any]) -> None:
    (event,) = found["task gate"]["seen"][0]
    assert (event["info"] >> 30, event["length"]) == (3, 0)


def test_a_new_task_without_a_stack_shuts_down(found: dict[str, Any]) -> None:
    case = found["task absent stack"]
    assert (case["status"], case["message"], case["kept"]) == (255, "guest at L2 died: triple fault", [0, 0, 0])
