"""What no guest should do under the svm and vmx engines: it ends as under direct, and the switcher is out of reach."""

from __future__ import annotations

from typing import Any

import pytest
from command import guest
from lab_cases import run_cases
from test_wild import MEMBERS, OUTPUT, statuses

from nestvmm._native import lib
from nestvmm.lab import Lab

SWITCHER = f"at={lib.NV_SWITCHER_BASE:#x}"
BLOCK = f"at={lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_BLOCK:#x}"

# Members that aim at the switcher's own memory, with the statuses that show that they missed.
AIMED = {
    f"write-beyond {SWITCHER}": {0},
    f"write-beyond {BLOCK}": {0},
    f"string-beyond {SWITCHER}": {0},
    f"string-beyond {BLOCK}": {0},
    f"cr3-outside {SWITCHER}": {124, 255},
    f"cr3-outside {BLOCK}": {124, 255},
    f"jump-out {SWITCHER}": {254, 255},
    f"jump-out {BLOCK}": {254, 255},
}
# KVM answers what its emulator cannot do in a nested guest by #UD, which the guest reports by this status; on AMD's
# processors it retries some accesses that no memory backs for ever.
ELSE = {
    "svm": {"jump-out": {254}, "stack-hole": {124}, "cr3-outside": {124}, "cr3-self": {124}},
    "vmx": {"jump-out": {254}},
}
# Seconds of those that only a timeout ends, and of those that end by themselves.
SHORT, LONG = 1, 60


def allowed(vendor: str, name: str) -> set[int]:
    """The statuses that a member may end with."""
    return AIMED[name] if name in AIMED else statuses(MEMBERS[name]) | ELSE[vendor].get(name, set())


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """How each member ended, all in one go in the lab."""
    members = [f"{name}={SHORT if 124 in allowed(vendor, name) else LONG}" for name in (*MEMBERS, *AIMED)]
    return run_cases(vendor_lab, "guests/wild_cases.py", guest("wild"), vendor, *members)


@pytest.mark.parametrize("name", [*MEMBERS, *AIMED])
def test_wild(name: str, vendor: str, found: dict[str, Any]) -> None:
    ended = found[name]
    assert ended["status"] in allowed(vendor, name), ended["message"]
    assert "switcher" not in ended["message"]
    assert ended["output"].startswith(f"wild {name.split(maxsplit=1)[0]}\n")
    if name != "reserved-bits":  # the processor at hand decides whether the access's own bits are told, too
        assert OUTPUT.get(name, "") in ended["output"]
