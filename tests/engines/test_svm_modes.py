"""The svm engine on kvm_amd: guests at CPL 3, in 32-bit protected mode and in real mode, with exact exits."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

TESTS = Path(__file__).parents[1]
CODE, LEAF, ANSWER = 0x100000, 0x40000123, 0x7777
READ, WRITE, EXECUTE = 0, 1, 2

# Where the instruction is, as the mode's RIP, and how many exits come before: EFER is read and written on the way.
MODES = {"protected": (CODE + 87, 2), "real": (45, 2), "user": (CODE + 129, 0)}
# Exit code, qualifier, direction, size, value, length.
REASONS = {
    "cpuid": (0x72, LEAF, EXECUTE, 0, 0, 2),
    "rdtsc": (0x6E, 0, EXECUTE, 0, 0, 2),
    "hlt": (0x78, 0, EXECUTE, 0, 0, 1),
    "cr0 read": (0x00, 0, READ, 4, 0, 3),
    "cr4 write": (0x14, 4, WRITE, 4, 0x80, 3),
    "int 0x55": (0x75, 0x55, EXECUTE, 0, 0, 2),
    "into": (0x75, 4, EXECUTE, 0, 0, 1),
    "pushf": (0x70, 0, EXECUTE, 0, 0, 1),
    "ud": (0x46, 6, EXECUTE, 0, 0, 0),
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
# A handler leaves the RIP that it found in EAX; a fault's does not return. CPUID has nothing at that leaf.
DECLINED = {
    "protected cpuid decline": (0, 0, 0),
    "real cpuid decline": (0, 0, 0),
    "user cpuid decline": (0, 0, 0),
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


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), str(TESTS / "engines")])
    command = [sys.executable, str(TESTS / "engines" / "svm_cases.py"), "modes"]
    result = svm_lab.run(command, env={"PYTHONPATH": path}, timeout=240)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("name", [*ANSWERED, *DECLINED, "user rdtsc decline"])
def test_a_level_sees_the_exit_in_every_mode(name: str, found: dict[str, Any]) -> None:
    mode, *middle, _ = name.split()
    reason = " ".join(middle)
    raw, qualifier, direction, size, value, length = REASONS[reason]
    rip, before = MODES[mode]
    case = found[name]
    # paging is switched off by a read of CR0, too, which is not the last one
    event = case["seen"][0].pop()
    assert [other["raw"] for other in case["seen"][0]] == ([0] if reason == "cr0 read" else [])
    assert case["exits"] == 2 + before + len(case["seen"][0])
    if reason != "ud":
        assert len(event["instruction"]) == 2 * length
    del event["instruction"]
    expected = {"raw": raw, "qualifier": qualifier, "direction": direction, "size": size, "value": value, "info": 0}
    assert event == {**expected, "length": length, "rip": rip + SETUP.get((mode, reason), 0) - CODE}


@pytest.mark.parametrize("name", ANSWERED)
def test_the_guest_takes_the_answer(name: str, found: dict[str, Any]) -> None:
    assert (found[name]["status"], found[name]["message"], tuple(found[name]["kept"])) == (0, "", ANSWERED[name])


@pytest.mark.parametrize("name", DECLINED)
def test_what_is_declined_happens(name: str, found: dict[str, Any]) -> None:
    assert (found[name]["status"], found[name]["message"], tuple(found[name]["kept"])) == (0, "", DECLINED[name])


def test_a_declined_rdtsc_at_cpl_3_tells_the_time(found: dict[str, Any]) -> None:
    case = found["user rdtsc decline"]
    assert (case["status"], case["kept"][1:]) == (0, [0, 0])
    assert case["kept"][0] not in (0, ANSWER)


def test_a_fault_in_real_mode_has_no_error_code(found: dict[str, Any]) -> None:
    """The handler of #GP finds IP on top of its stack."""
    assert (found["real fault"]["status"], found["real fault"]["kept"]) == (0, [0, 0, 45])


def test_the_labs_processor_does_not_trap_task_switches(found: dict[str, Any]) -> None:
    """Nothing in QEMU's switch_tss_ra looks for an intercept: TR and EBX are the new TSS's. Fails once it traps."""
    case = found["task switch"]
    assert (case["status"], case["seen"][0], case["kept"]) == (0, [], [0x68, 0x1234, 0])
