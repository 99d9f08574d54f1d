"""What a round trip through the switcher costs by VMX, in the VMX lab, whose clock counts instructions.

For that clock an exit of the processor is one instruction, so that what Python does weighs more than anywhere else:
its goal is for processors.
"""

from __future__ import annotations

from typing import Any

import pytest
from lab_cases import run_cases

from nestvmm.lab import Lab

pytestmark = pytest.mark.vmx_lab

GOAL_C, GOAL_FLAT = 1.15, 1.10


@pytest.fixture(scope="module")
def ticks(vmx_lab: Lab) -> dict[str, Any]:
    return run_cases(vmx_lab, "bench/switch_cases.py", timeout=300)


def test_l0s_c_code_adds_little_to_the_bare_loop(ticks: dict[str, Any]) -> None:
    assert 1 < ticks["in C"] / ticks["bare"] <= GOAL_C


@pytest.mark.parametrize("height", [4, 8, 16])
def test_no_height_costs_anything(height: int, ticks: dict[str, Any]) -> None:
    assert ticks[f"in Python, guest at L{height}"] / ticks["in Python, guest at L2"] <= GOAL_FLAT
