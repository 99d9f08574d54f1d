"""--designate vmx-instruction=L1: level 2 has only what the image at level 1 makes of VMX, as on hardware."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from command import guest
from lab_cases import run_cases

from nestvmm.lab import Lab

pytestmark = pytest.mark.vmx_lab

TESTS = Path(__file__).parents[1]
L1 = "vmx-instruction=L1"
VMCALL, VMCLEAR, VMLAUNCH, VMPTRLD, VMPTRST, VMREAD, VMRESUME, VMWRITE, VMXOFF, VMXON = range(18, 28)
INVEPT, INVVPID = 50, 53
GP = 13
UD, PF = 0x106, 0x10E
INVALID, VALID = 1, 0x40  # CF, ZF


@pytest.fixture(scope="module")
def found(vmx_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    found = run_cases(vmx_lab, "frontends/cascade_vmx_cases.py")
    assert {(case["status"], case["message"]) for case in found.values()} == {(0, "")}
    return found


@pytest.mark.parametrize("case", ["every", f"every {L1}"])
def test_each_of_them_is_an_exit_to_level_1_while_level_2_has_no_vmx(case: str, found: dict[str, Any]) -> None:
    """By either designation: outside VMX operation L0 does nothing for level 2."""
    assert found[case]["kept"] == [
        *(VMXON, VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE, VMLAUNCH, VMRESUME, VMXOFF, INVEPT, INVVPID, VMCALL)
    ]
    assert (found[case]["reflected"][:2], found[case]["served"][1]) == ([12, 0], 0)


def test_flat_l0_does_what_level_2_asks_and_level_1_hears_nothing(found: dict[str, Any]) -> None:
    case = found["in operation"]
    assert case["kept"] == [0, 0x1234, VMCALL]
    assert (case["reflected"][0], case["served"][1]) == (1, 9)


def test_designated_to_level_1_they_are_exits_to_it(found: dict[str, Any]) -> None:
    """The processor that level 2 sees is level 1's, where VMX is on and locked; its first instruction is an exit."""
    case = found[f"in operation {L1}"]
    assert case["kept"] == [5, 0, VMXON]
    assert (case["reflected"][0], case["served"][1]) == (1, 0)


def test_level_2_writes_a_feature_control_of_its_own_only_where_l0_gives_it_vmx(found: dict[str, Any]) -> None:
    assert found["locked"]["kept"] == [0x77, VMCALL]
    assert found[f"locked {L1}"]["kept"] == [GP, VMCALL], "level 1 has locked it"


def test_minivisor_gives_level_2_the_vmx_that_l0_gives_it(found: dict[str, Any]) -> None:
    """Instructions with their errors, checks of entries, exits, EPT; of L0's test_nested_vmx tests that."""
    flat, cascade = found["same"], found[f"same {L1}"]
    assert cascade["kept"] == flat["kept"]
    assert (bool(flat["served"][1]), bool(cascade["served"][1])) == (True, False)
    kept = cascade["kept"]
    assert kept[:10] == [UD, INVALID, INVALID, PF, 0, INVALID, INVALID, INVALID, 0, 0]
    errors = [9, 10, 11, 2, 3, 15, 12, 12, 13, 12, 5, 28, 28, 26]
    assert kept[10:38] == [word for error in errors for word in (VALID, error)]
    assert kept[38:42] == [0x100 + GP, PF, 0, 0x131000]
    assert kept[42:48] == [0x5555666633334444, 0x55556666, 0x2345, 0x23456789, 0x23456789, 0x777]
    verdicts = [kept[at : at + 5] for at in range(48, 48 + 5 * 13, 5)]
    assert [(flags, error) for flags, error, *_ in verdicts[:10]] == [(VALID, 7)] * 5 + [(VALID, 8)] * 4 + [(VALID, 7)]
    assert [(flags, reason) for flags, _, reason, *_ in verdicts[10:]] == [(0, 1 << 31 | 33)] * 3


def test_a_designation_that_makes_no_sense_is_refused(vmx_lab: Lab) -> None:
    options = ["run", str(guest("hello")), "--designate", L1, "--engine", "vmx", "--expose", "L0:-vmx"]
    command = [sys.executable, "-c", "from nestvmm.cli import main; main()", *options]
    result = vmx_lab.run(command, env={"PYTHONPATH": str(TESTS.parent)}, timeout=60)
    assert (result.status, result.stderr.decode()) == (
        2,
        "nestvmm: designate vmx-instruction=L1: no image has VMX, as L0 hides it from the levels above it\n",
    )
