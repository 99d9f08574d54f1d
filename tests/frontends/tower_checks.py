"""What holds of a tower of minivisors on any virtualization by software; see tower_cases.py."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["check_answers", "check_climbs", "check_nests", "check_owners", "cost"]

_VALUE = 0x123456789ABCDEF


def check_answers(vendor: str, height: int, case: dict[str, Any]) -> None:
    """Every level answers the innermost guest, and has memory of its own."""
    lines = case["out"].splitlines()
    assert (case["status"], case["message"], lines[-1]) == (0, "", f"level {height}: 0 wrong")
    below = range(1, height)
    assert lines[: height - 1] == [
        f"minivisor {level}: {vendor}, its guest has {0x4000000 - level * 0x200000:#x} bytes at 0x200000"
        for level in below
    ]
    assert lines[height - 1] == f"marks {' '.join(str(level) for level in below)}"
    answers = [f"hypercall {level}: {(_VALUE * 31 + level) % 2**64:#x}" for level in below]
    assert lines[height + 1 : 2 * height] == answers


def check_owners(height: int, case: dict[str, Any]) -> None:
    """Sixty of the exits are measured ones to level n-1: no level below sees any of them."""
    reflected = case["reflected"]
    assert reflected[height - 2] >= 60
    assert all(count < 60 for count in reflected[: height - 2])
    assert reflected[height - 1 :] == [0] * (16 - height + 1)
    assert case["entered"][: height - 1] == [count + 1 for count in reflected[: height - 1]]


def check_nests(name: str, case: dict[str, Any]) -> None:
    """`HEIGHT:LEVEL`: L0 serves no level above that one, which nests by itself.

    What levels above it ask of SVM or VMX goes to the hypervisor there, as their other exits do.
    """
    height, level = int(name.partition(":")[0]), int(name.partition("L")[2])
    lowest = min(level, height - 1)
    for kind in ("entered", "reflected", "served"):
        assert [bool(count) for count in case[kind]] == [True] * lowest + [False] * (16 - lowest), kind


def check_climbs(heights: list[int], found: dict[str, Any]) -> None:
    """Nine exits are measured: each level more makes level 1 run at least twice as often for one."""
    entered = [found[f"{height}:L1"]["entered"][0] for height in heights]
    assert all(
        entered[0] + 9 * 2 ** (height - 2) < count for height, count in zip(heights[1:], entered[1:], strict=True)
    )


def cost(case: dict[str, Any], kind: str) -> int:
    """The least cycles of one exit of the innermost guest to its own hypervisor."""
    match = re.search(rf"^rtt {kind} count 20 min ([0-9]+) median", case["out"], re.MULTILINE)
    assert match is not None, case["out"]
    return int(match[1])
