"""What no guest should do under the switcher engines: it ends as under direct, and the switcher stays out of reach."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from command import guest
from test_wild import MEMBERS, OUTPUT, statuses

from nestvmm._native import lib
from nestvmm.lab import Lab

TESTS = Path(__file__).parents[1]
SECONDS = 3
SWITCHER = f"at={lib.NV_SWITCHER_BASE:#x}"
BLOCK = f"at={lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_BLOCK:#x}"

# Members that aim at the switcher's own memory, with the statuses that show that they missed.
AIMED = {
    f"write-beyond {SWITCHER}": {0},
    f"write-beyond {BLOCK}": {0},
    f"string-beyond {SWITCHER}": {0},
    f"string-beyond {BLOCK}": {0},
    f"cr3-outside {SWITCHER}": {124, 255},
    f"jump-out {SWITCHER}": {254, 255},
}
# KVM answers what its emulator cannot do in a nested guest by #UD, which the guest reports by this status; it retries
# some accesses that no memory backs for ever.
ELSE = {"jump-out": {254}, "stack-hole": {124}, "cr3-outside": {124}, "cr3-self": {124}}

pytestmark = pytest.mark.svm_lab


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """How each member ended, all in one go in the lab."""
    script = str(Path(__file__).with_name("wild_cases.py"))
    command = [sys.executable, script, str(guest("wild")), "svm", str(SECONDS), *MEMBERS, *AIMED]
    env = {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    result = svm_lab.run(command, env=env, timeout=600)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def check(ended: dict[str, Any], allowed: set[int]) -> None:
    assert ended["status"] in allowed, ended["err"]
    assert "Traceback" not in ended["err"]
    assert "switcher" not in ended["err"]
    assert ended["err"].startswith("nestvmm: ") == (ended["status"] not in (0, 254))


@pytest.mark.parametrize("name", MEMBERS)
def test_wild(found: dict[str, Any], name: str) -> None:
    check(found[name], statuses(MEMBERS[name]) | ELSE.get(name, set()))
    assert OUTPUT.get(name, "") in found[name]["out"] or name == "reserved-bits"


@pytest.mark.parametrize("member", AIMED)
def test_the_switcher_is_out_of_reach(found: dict[str, Any], member: str) -> None:
    check(found[member], AIMED[member])
