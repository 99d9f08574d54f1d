"""What no guest should do under the svm engine: it ends as under direct, and the switcher stays out of reach."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from command import guest
from test_wild import MEMBERS, OUTPUT, statuses

from nestvmm._native import lib
from nestvmm.lab import Lab

TESTS = Path(__file__).parents[1]
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
ALLOWED = {name: statuses(text) | ELSE.get(name, set()) for name, text in MEMBERS.items()} | AIMED
# Seconds of those that only a timeout ends, and of those that end by themselves.
SHORT, LONG = 1, 60


def run(lab: Lab, engine: str, names: Iterable[str]) -> dict[str, Any]:
    """How each member ended, all in one go in the lab."""
    script = str(Path(__file__).with_name("wild_cases.py"))
    members = [f"{name}={SHORT if 124 in ALLOWED[name] else LONG}" for name in names]
    env = {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    result = lab.run([sys.executable, script, str(guest("wild")), engine, *members], env=env, timeout=900)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def check(found: dict[str, Any], name: str) -> None:
    ended = found[name]
    assert ended["status"] in ALLOWED[name], ended["message"]
    assert "switcher" not in ended["message"]
    assert ended["output"].startswith(f"wild {name.split(maxsplit=1)[0]}\n")
    if name != "reserved-bits":  # the processor at hand decides whether the access's own bits are told, too
        assert OUTPUT.get(name, "") in ended["output"]


@pytest.fixture(scope="module")
def under_svm(svm_lab: Lab) -> dict[str, Any]:
    return run(svm_lab, "svm", ALLOWED)


@pytest.mark.svm_lab
@pytest.mark.parametrize("name", ALLOWED)
def test_under_svm(under_svm: dict[str, Any], name: str) -> None:
    check(under_svm, name)
