"""--designate svm-instruction=L1: level 2 has only what the image at level 1 makes of SVM, as on hardware."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from lab_cases import run_cases

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

TESTS = Path(__file__).parents[1]
L1 = "svm-instruction=L1"
VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA = 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x7A
SVME = 1 << 12


@pytest.fixture(scope="module")
def lab(svm_lab: Lab) -> Lab:
    return svm_lab


@pytest.fixture(scope="module")
def found(lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    found = run_cases(lab, "frontends/cascade_cases.py")
    assert {(case["status"], case["message"]) for case in found.values()} == {(0, "")}
    return found


@pytest.mark.parametrize("case", ["intercepted", f"intercepted {L1}"])
def test_each_of_them_is_an_exit_to_level_1_while_level_2_has_no_svm(case: str, found: dict[str, Any]) -> None:
    """By either designation: without EFER.SVME L0 does nothing for level 2."""
    assert found[case]["kept"] == [VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA, VMMCALL]
    assert found[case]["reflected"][:2] == [8, 0]


def instructions(case: dict[str, Any]) -> int:
    """What L0 does of the five that do not exit to anybody: a processor that keeps the GIF does two itself."""
    return 3 if case["keeps_gif"] else 5


def test_flat_l0_does_what_level_2_asks_and_level_1_hears_nothing(found: dict[str, Any]) -> None:
    case = found["enabled"]
    assert case["kept"] == [VMMCALL]
    assert (case["reflected"][0], case["served"][1]) == (1, instructions(case))


def test_designated_to_level_1_they_are_exits_to_it(found: dict[str, Any]) -> None:
    case = found[f"enabled {L1}"]
    assert case["kept"] == [VMSAVE]
    assert (case["reflected"][0], case["served"][1]) == (1, 0)


def test_level_1_alone_decides_what_level_2_sees_of_svm(found: dict[str, Any]) -> None:
    """VMRUN needs EFER.SVME in the block: that is what level 2 reads, and what nobody intercepts works."""
    assert found[f"not intercepted {L1}"]["kept"] == [0x1D00, VMMCALL, 0x77]
    assert found[f"not intercepted {L1}"]["served"][1] == instructions(found[f"not intercepted {L1}"])
    flat = found["not intercepted"]["kept"]
    assert flat == [0x1D00 & ~SVME, VMMCALL, 6], "level 2 has not enabled SVM: #UD, whose handler does VMMCALL"


@pytest.mark.parametrize("case", ["without", f"without {L1}"])
def test_without_efer_svme_they_are_undefined(case: str, found: dict[str, Any]) -> None:
    assert found[case]["kept"] == [VMMCALL, 6]


def test_a_designation_that_makes_no_sense_is_refused(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "halt.bin"
    image.write_bytes(b"\xf4")
    options = ["run", str(image), "--address", "0x100000", "--designate", L1, "--engine", "svm", "--expose", "L0:-svm"]
    command = [sys.executable, "-c", "from nestvmm.cli import main; main()", *options]
    result = lab.run(command, env={"PYTHONPATH": str(TESTS.parent)}, timeout=60)
    assert (result.status, result.stderr.decode()) == (
        2,
        "nestvmm: designate svm-instruction=L1: no image has SVM, as L0 hides it from the levels above it\n",
    )
