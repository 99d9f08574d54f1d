"""The svm engine finds how long the instruction is that it stopped, also where the processor does not tell."""

from __future__ import annotations

from typing import Any

import pytest
from lab_cases import run_cases

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

LEAF = 0x40000123
CODE, MAPPED, BASE = 0x100000, 0x8000000000, 0x20000
BEFORE = 15  # bytes before an instruction of FORMS

# Its bytes and its qualifier.
FORMS = {
    "cpuid": ("0fa2", LEAF),
    "cpuid 66": ("660fa2", LEAF),
    "cpuid 48": ("480fa2", LEAF),
    "cpuid longest": ("66" * 12 + "480fa2", LEAF),
    "rdtsc 2e": ("2e0f31", 0),
    "rdpmc 3e": ("3e480f33", 3),
    "pause 66": ("66f390", 0),
    "hlt 67": ("67f4", 0),
    "wbnoinvd": ("f30f09", 0),
    "hypercall": ("660f01d9", LEAF),
}


class Instruction(str):
    """Bytes in hexadecimal; none where the processor tells the next RIP, so that nothing is fetched: equal to any."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return not self or super().__eq__(other)


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(svm_lab, "engines/decode_cases.py")


def stops(case: dict[str, Any]) -> list[tuple[int, int, Instruction]]:
    """RIP, qualifier and instruction of each exit."""
    return [(rip, qualifier, Instruction(code)) for rip, qualifier, code in case["seen"]]


@pytest.mark.parametrize("name", FORMS)
def test_the_guest_goes_on_behind_an_instruction_of_any_form(name: str, found: dict[str, Any]) -> None:
    code, qualifier = FORMS[name]
    case = found[name]
    assert (case["status"], case["message"], case["kept"][0]) == (0, "", 1)
    assert stops(case) == [(CODE + BEFORE, qualifier, code)]


def test_at_the_end_of_a_page_nothing_behind_it_is_read(found: dict[str, Any]) -> None:
    case = found["page end"]
    assert stops(case) == [(MAPPED + 0xFFE, LEAF, "0fa2")]
    assert (case["status"], case["kept"][:2]) == (0, [1, MAPPED + 0x1000])


def test_an_instruction_on_two_pages(found: dict[str, Any]) -> None:
    case = found["split"]
    assert stops(case) == [(MAPPED + 0xFFD, LEAF, "66670fa2")]
    assert (case["status"], case["kept"][0]) == (0, 1)


@pytest.mark.parametrize("bits", [32, 16])
def test_narrow_code_in_a_segment_that_does_not_start_at_0(bits: int, found: dict[str, Any]) -> None:
    case = found[f"{bits}-bit"]
    assert stops(case) == [(CODE + 0x1000 - BASE, LEAF, "660fa2")]
    assert (case["status"], case["message"], case["kept"][0]) == (0, "", 1)
