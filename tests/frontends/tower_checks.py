"""What holds of a tower of minivisors on any virtualization by software; see tower_cases.py."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["check_answers", "check_owners", "cost"]

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


def cost(case: dict[str, Any], kind: str) -> int:
    """The least cycles of one exit of the innermost guest to its own hypervisor."""
    match = re.search(rf"^rtt {kind} count 20 min ([0-9]+) median", case["out"], re.MULTILINE)
    assert match is not None, case["out"]
    return int(match[1])
