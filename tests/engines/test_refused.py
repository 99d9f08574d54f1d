"""State that the processor refuses is refused by name: the run ends with the rules that are broken."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from refused_cases import BREAKS

from nestvmm.lab import Lab

TESTS = Path(__file__).parents[1]

SVM_RULES = {
    "cr0-nw": "CR0.NW is set and CR0.CD is clear",
    "cr0-high": "CR0 has bits above 31",
    "cr4-reserved": "CR4 has reserved bits: 0x10000000000",
    "no-pae": "EFER.LME and CR0.PG are set and CR4.PAE is clear",
    "cs-l-d": "CS.L and CS.D are both set in long mode",
}


def run_cases(lab: Lab, engine: str) -> dict[str, Any]:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, str(Path(__file__).with_name("refused_cases.py")), engine]
    result = lab.run(command, env={"PYTHONPATH": path}, timeout=120)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.svm_lab
def test_svm(svm_lab: Lab) -> None:
    found = run_cases(svm_lab, "svm")
    for what in BREAKS:
        assert found[what]["status"] == 255
        assert found[what]["message"].startswith(
            f"guest at L2 died: the processor refused its state: {SVM_RULES[what]} (AMD APM vol. 2, 15.5.1)\n"
        )
