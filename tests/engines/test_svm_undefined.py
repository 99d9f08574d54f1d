"""Instructions that the processor lacks, under the svm engine in a lab without them: L0 emulates what L1 exposes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nestvmm.lab import Lab, SvmLab

pytestmark = pytest.mark.svm_lab

TESTS = Path(__file__).parents[1]
VALUE = 0x123456789ABCDEF0
ONES = VALUE.bit_count()
UD, PF = 6, 14
ZF = 1 << 6


@pytest.fixture(scope="module")
def poor_lab() -> Iterator[Lab]:
    """A machine whose processor has SVM, but neither POPCNT nor CRC32, which comes with SSE4.2."""
    with SvmLab(without=("popcnt", "sse4.2")) as lab:
        yield lab


@pytest.fixture(scope="module")
def found(poor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    result = poor_lab.run(
        [sys.executable, str(TESTS / "engines" / "undefined_cases.py")], env={"PYTHONPATH": path}, timeout=240
    )
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def emulated(case: dict[str, Any], count: int, name: str = "popcnt") -> bool:
    """Whether that is all that happened: L0 emulated so many instructions, and nothing entered a hypervisor."""
    return events(case) == [[0, name, "emulation-failure", count]] and case["touched"] == 0


def events(case: dict[str, Any]) -> list[list[Any]]:
    """Level, handler, reason and count of all events, but for those that L0 intercepts for itself."""
    return [row for row in case["rows"] if row[1:3] != ["L0", "cpuid"]]


def test_hardware_and_kvm_lack_it_and_l0_has_it(found: dict[str, Any]) -> None:
    case = found["level 3"]
    assert (found["kvm has popcnt"], case["first"]) == (False, False)
    assert "popcnt" not in case["lacks"]
    assert case["popcnt"] == [True] * 4


def test_direct_cannot_have_it(found: dict[str, Any]) -> None:
    why = "L0 does not have it: it raises #UD at CPL 0 and CPL 3, which the direct engine cannot intercept"
    assert found["offered"] == {"direct": ["no", why], "svm": ["emulated", ""]}


def test_a_program_at_level_3_uses_it_without_a_switch_into_a_hypervisor(found: dict[str, Any]) -> None:
    case = found["level 3"]
    assert (case["status"], case["message"]) == (0, "")
    assert case["kept"][:2] == [ONES, 100 * ONES]
    assert case["kept"][2] >> 23 & 1, "CPUID shows it"
    assert case["kept"][3] & ZF, "flags as of a processor that has it"
    assert emulated(case, 102)
    assert case["exits"] == sum(row[-1] for row in case["rows"]) + 1  # one hardware exit each, and the debug exit


def test_a_level_that_claims_it_gets_it_and_what_that_declines_l0_emulates(found: dict[str, Any]) -> None:
    case = found["declines"]
    assert (case["status"], case["kept"][:2]) == (0, [42, crc32c(0x31)])
    assert events(case) == [[0, "crc32", "emulation-failure", 1], [1, "Own", "emulation-failure", 1]]
    assert case["touched"] > 0


def crc32c(word: int) -> int:
    """Of eight bytes, from all ones on, as the instruction gives it."""
    crc = 0xFFFFFFFF ^ word
    for _ in range(64):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def test_at_cpl_3(found: dict[str, Any]) -> None:
    case = found["ring 3"]
    assert (case["status"], case["message"], case["kept"][0]) == (3, "", 40)
    assert emulated(case, 1)


@pytest.mark.parametrize(("bits", "ones"), [(32, 16), (16, 8)])
def test_in_narrow_code(bits: int, ones: int, found: dict[str, Any]) -> None:
    case = found[f"{bits}-bit"]
    assert (case["status"], case["message"], case["kept"][0]) == (0, "", ones)
    assert emulated(case, 1)


def test_across_the_end_of_a_page(found: dict[str, Any]) -> None:
    case = found["split"]
    assert (case["status"], case["kept"][0]) == (0, ONES)
    assert emulated(case, 1)


def test_its_operand_may_fault(found: dict[str, Any]) -> None:
    case = found["page fault"]
    assert case["status"] == PF
    assert case["kept"][:2] == [0, 0x8000001234]  # error code, CR2
    assert case["kept"][2] == 0x100000 + 8 + 10, "RIP is the instruction's"
    assert emulated(case, 1)


def test_its_operand_may_just_have_changed(found: dict[str, Any]) -> None:
    assert found["stored"]["kept"][:2] == [16, 0xFFFF]


def test_what_is_undefined_stays_so(found: dict[str, Any]) -> None:
    case = found["own handler"]
    assert (case["status"], case["kept"][:2]) == (0, [ONES, 1])
    assert events(case) == [[0, "L0", "exception", 2], [0, "popcnt", "emulation-failure", 2]]


@pytest.mark.parametrize(
    ("name", "rows"), [("hidden", [[0, "popcnt off", "emulation-failure", 1]]), ("nothing emulated", [])]
)
def test_a_hidden_instruction_is_undefined(name: str, rows: list[list[Any]], found: dict[str, Any]) -> None:
    """Where nothing is emulated the processor itself says so."""
    case = found[name]
    assert (case["status"], case["kept"][1]) == (UD, 0x100000 + 8 + 10)
    assert events(case) == rows
    assert case["exits"] == 1 + len(rows)
