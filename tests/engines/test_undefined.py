"""Instructions that the processor lacks, under the svm and vmx engines: L0 emulates what L1 exposes.

The SVM lab is one whose processor lacks POPCNT and CRC32; the VMX lab's lacks RDPID, whose answer the guest sets, and
which has no operands in memory, no flags, and no other beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lab_cases import run_cases
from vendors import svm_alone

from nestvmm.lab import Lab, SvmLab

VALUE = 0x123456789ABCDEF0
ONES = VALUE.bit_count()
UD, PF = 6, 14
ZF = 1 << 6
NAMES = {"svm": "popcnt", "vmx": "rdpid"}
LEAF_BITS = {"svm": 23, "vmx": 22}
# Where the first one is: behind LIDT, and MOV or WRMSR.
AT = {"svm": 0x100000 + 8 + 10, "vmx": 0x100000 + 8 + 32}


@pytest.fixture(scope="module")
def poor_lab(vendor: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A machine whose processor nests, but lacks the instruction."""
    if vendor == "vmx":
        yield request.getfixturevalue("vmx_lab")
        return
    # CRC32 comes with SSE4.2
    with SvmLab(without=("popcnt", "sse4.2")) as lab:
        yield lab


@pytest.fixture(scope="module")
def found(vendor: str, poor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(poor_lab, "engines/undefined_cases.py", vendor)


def emulated(case: dict[str, Any], count: int, name: str) -> bool:
    """Whether that is all that happened: L0 emulated so many instructions, and nothing entered a hypervisor."""
    return events(case) == [[0, name, "emulation-failure", count]] and case["touched"] == 0


def events(case: dict[str, Any]) -> list[list[Any]]:
    """Level, handler, reason and count of all events, but for those that L0 intercepts for itself."""
    return [row for row in case["rows"] if row[1:3] != ["L0", "cpuid"]]


def test_hardware_and_kvm_lack_it_and_l0_has_it(vendor: str, found: dict[str, Any]) -> None:
    case = found["level 3"]
    assert (found["kvm has it"], case["first"]) == (False, False)
    assert NAMES[vendor] not in case["lacks"]
    assert case["seen"] == [True] * 4


def test_direct_has_it_only_where_kvm_emulates_it(vendor: str, found: dict[str, Any]) -> None:
    """As KVM on Intel's processors does RDPID; but not that of a nested guest."""
    why = "L0 does not have it: it raises #UD at CPL 0 and CPL 3, which the direct engine cannot intercept"
    direct = {"svm": ["no", why], "vmx": ["runs", ""]}[vendor]
    assert found["offered"] == {"direct": direct, vendor: ["emulated", ""]}


def test_a_program_at_level_3_uses_it_without_a_switch_into_a_hypervisor(vendor: str, found: dict[str, Any]) -> None:
    case = found["level 3"]
    assert (case["status"], case["message"]) == (0, "")
    assert case["kept"][:2] == [ONES, 100 * ONES]
    assert case["kept"][2] >> LEAF_BITS[vendor] & 1, "CPUID shows it"
    assert emulated(case, 101, NAMES[vendor])
    assert case["exits"] == sum(row[-1] for row in case["rows"]) + 1  # one hardware exit each, and the debug exit


def test_a_level_that_claims_it_gets_it_and_what_that_declines_l0_emulates(vendor: str, found: dict[str, Any]) -> None:
    case = found["declines"]
    assert (case["status"], case["kept"][:2]) == (0, [42, ONES])
    assert events(case) == [[0, NAMES[vendor], "emulation-failure", 1], [1, "Own", "emulation-failure", 1]]
    assert case["touched"] > 0


@svm_alone
def test_flags_are_as_of_a_processor_that_has_it(found: dict[str, Any]) -> None:
    assert found["flags"]["kept"][0] & ZF


@svm_alone
def test_another_instruction_that_is_lacking(found: dict[str, Any]) -> None:
    assert (found["another"]["status"], found["another"]["kept"][0]) == (0, crc32c(0x31))
    assert emulated(found["another"], 1, "crc32")


def crc32c(word: int) -> int:
    """Of eight bytes, from all ones on, as the instruction gives it."""
    crc = 0xFFFFFFFF ^ word
    for _ in range(64):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def test_at_cpl_3(vendor: str, found: dict[str, Any]) -> None:
    case = found["ring 3"]
    assert (case["status"], case["message"], case["kept"][0]) == (3, "", ONES)
    assert case["kept"][1] == (40 if vendor == "svm" else 0), "of memory"
    assert emulated(case, 2 if vendor == "svm" else 1, NAMES[vendor])


@pytest.mark.parametrize("bits", [32, 16])
def test_in_narrow_code(bits: int, vendor: str, found: dict[str, Any]) -> None:
    case = found[f"{bits}-bit"]
    ones = (VALUE % (1 << bits)).bit_count() if vendor == "svm" else ONES
    assert (case["status"], case["message"], case["kept"][0]) == (0, "", ones)
    assert emulated(case, 1, NAMES[vendor])


def test_across_the_end_of_a_page(vendor: str, found: dict[str, Any]) -> None:
    case = found["split"]
    assert (case["status"], case["kept"][0]) == (0, ONES)
    assert emulated(case, 1, NAMES[vendor])


@svm_alone
def test_its_operand_may_fault(found: dict[str, Any]) -> None:
    case = found["page fault"]
    assert case["status"] == PF
    assert case["kept"][:2] == [0, 0x8000001234]  # error code, CR2
    assert case["kept"][2] == AT["svm"], "RIP is the instruction's"
    assert emulated(case, 1, "popcnt")


@svm_alone
def test_its_operand_may_just_have_changed(found: dict[str, Any]) -> None:
    assert found["stored"]["kept"][:2] == [16, 0xFFFF]


def test_what_is_undefined_stays_so(vendor: str, found: dict[str, Any]) -> None:
    case = found["own handler"]
    assert (case["status"], case["kept"][:2]) == (0, [ONES, 1])
    assert events(case) == [[0, "L0", "exception", 2], [0, NAMES[vendor], "emulation-failure", 2]]


@svm_alone
def test_a_hidden_instruction_is_undefined(found: dict[str, Any]) -> None:
    case = found["hidden"]
    assert (case["status"], case["kept"][1]) == (UD, AT["svm"])
    assert events(case) == [[0, "popcnt off", "emulation-failure", 1]]
    assert case["exits"] == 2


def test_where_nothing_is_emulated_the_processor_itself_says_so(vendor: str, found: dict[str, Any]) -> None:
    case = found["nothing emulated"]
    assert (case["status"], case["kept"][1], events(case), case["exits"]) == (UD, AT[vendor], [], 1)
