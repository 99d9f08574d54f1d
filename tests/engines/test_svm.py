"""The svm engine on kvm_amd: each reason with its exact code and effect, and the switcher out of reach."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

TESTS = Path(__file__).parents[1]
ANSWER = 0x7777

# Exit codes of AMD APM vol. 2, appendix C; qualifier; where the instruction is.
REASONS = {
    "cpuid": (0x72, 0x40000123, 20),
    "rdtsc": (0x6E, 0x0, 0),
    "rdpmc": (0x6F, 0x3, 10),
    "hlt": (0x78, 0x0, 0),
    "pause": (0x77, 0x0, 0),
    "wbinvd": (0x89, 0x0, 0),
    "monitor": (0x8A, 0x0, 30),
    "mwait": (0x8B, 0x0, 10),
    "hypercall": (0x81, 0x55, 10),
    "svm-instruction": (0x84, 0x84, 0),
}


# What the lab's processor cannot show, with the intercept that it looks at instead (QEMU, target/i386/tcg).
NOT_TRAPPED = {
    "rdtscp": "RDTSC's, in helper_rdtscp",
    "invd": "WBINVD's, in disas_insn",
    "xsetbv": "none, in helper_xsetbv",
}


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    result = svm_lab.run(
        [sys.executable, str(TESTS / "engines" / "svm_cases.py")], env={"PYTHONPATH": path}, timeout=240
    )
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("reason", REASONS)
def test_the_designated_level_sees_the_exit_and_the_guest_its_answer(reason: str, found: dict[str, Any]) -> None:
    raw, qualifier, rip = REASONS[reason]
    case = found[f"reason {reason}"]
    assert (case["status"], case["message"]) == (0, "")
    assert case["seen"][0] == [{"raw": raw, "qualifier": qualifier, "level": 2, "rip": rip}]
    assert case["kept"] == [ANSWER]
    assert case["exits"] == 2  # the instruction and the debug exit: one hardware exit each, three hypervisors or not


@pytest.mark.parametrize("reason", ["rdtsc", "pause", "wbinvd"])
def test_a_declined_instruction_executes(reason: str, found: dict[str, Any]) -> None:
    case = found[f"declined {reason}"]
    assert (case["status"], len(case["seen"][0]), case["exits"]) == (0, 1, 2)
    assert (case["kept"][0] != 0) == (reason == "rdtsc")


def test_a_declined_cpuid_gives_what_the_processor_gives(found: dict[str, Any]) -> None:
    assert found["cpuid native"]["kept"] == found["cpuid untrapped"]["kept"]
    assert found["cpuid native"]["exits"] == 2
    assert found["cpuid untrapped"]["exits"] == 1


@pytest.mark.parametrize("reason", ["hypercall", "svm-instruction"])
def test_what_nobody_claims_is_undefined(reason: str, found: dict[str, Any]) -> None:
    case = found[f"undefined {reason}"]
    assert (case["status"], case["kept"]) == (0, [6])


def test_a_handler_makes_the_guest_fault_at_the_instruction(found: dict[str, Any]) -> None:
    assert (found["fault"]["status"], found["fault"]["kept"]) == (0, [0x5A8, 9])


def test_a_handler_sees_and_changes_system_registers(found: dict[str, Any]) -> None:
    case = found["peek"]
    assert case["seen"][0] == [{"cr0": 0x80000031, "efer": 0x500, "cs": 0x10, "long": 1}]
    assert case["kept"] == [0x20 | 1 << 7]


def test_a_handler_changes_system_registers_and_faults_on_an_exit_that_was_not_by_the_switcher(
    found: dict[str, Any],
) -> None:
    assert (found["recall"]["status"], found["recall"]["kept"]) == (0, [0x5A, 0x20 | 1 << 7, 0x5A8])


@pytest.mark.parametrize("reason", NOT_TRAPPED)
def test_the_labs_processor_does_not_trap(reason: str, found: dict[str, Any]) -> None:
    """Fails once it does: then the reason moves to REASONS."""
    case = found[f"reason {reason}"]
    assert (case["status"], case["seen"][0], case["exits"]) == (0, [], 1)


def test_the_switcher_is_out_of_its_guests_reach(found: dict[str, Any]) -> None:
    """Its address is a hole of level n's: an empty bus."""
    case = found["switcher memory"]
    assert (case["status"], case["message"], case["exits"]) == (0, "", 4)
    assert case["kept"] == [(1 << 64) - 1] * 2
