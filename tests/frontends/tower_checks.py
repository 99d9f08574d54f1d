"""What holds of a tower of minivisors on any virtualization by software; see tower_cases.py."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

__all__ = [
    "check_answers",
    "check_climbs",
    "check_counted",
    "check_designated",
    "check_nests",
    "check_owners",
    "check_traced",
    "cost",
]

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


def check_counted(case: dict[str, Any]) -> None:
    """Exits that go straight to an image are in the account like all others, and were C's to hand over."""
    rows = case["account"]["rows"]
    assert sum(row["count"] for row in rows) == case["account"]["exits"]
    images = [row for row in rows if row["level"]]
    assert sum(row["count"] for row in images) == sum(case["reflected"])
    assert all(row["count"] == row["served_in_c"] for row in images)


def check_traced(height: int, hypercall: str, case: dict[str, Any]) -> None:
    """A trace has what the account counts: of each image its guest's exits, with the instructions that made them."""
    events = case["trace"]
    counted: Counter[tuple[str, bool]] = Counter()
    for row in case["account"]["rows"]:
        counted[row["reason"], bool(row["level"])] += row["count"]
    assert Counter((event["reason"], bool(event["handler"])) for event in events) == counted
    handlers = Counter(event["handler"] for event in events)
    assert [handlers[level] for level in range(1, height)] == case["reflected"][: height - 1]
    found = {(event["reason"], event["instruction"].split()[0]) for event in events if event["handler"] == height - 1}
    assert found == {("cpuid", "cpuid"), ("hypercall", hypercall), ("io", "in"), ("io", "out")}
    assert {event["level"] for event in events if event["handler"] == height - 1} == {height}
    for event in events:
        parts = [event[f"{part}_ns"] for part in ("decode", "route", "handle", "complete")]
        assert min(parts) >= 0
        assert abs(sum(parts) - event["ns"]) <= len(parts)


def check_designated(case: dict[str, Any]) -> None:
    """The level below the image has what was designated to it; the guest sees no difference."""
    assert (case["status"], case["message"]) == (0, "")
    lines = case["out"].splitlines()
    assert (lines[1], lines[-1]) == ("marks 2", "level 3: 0 wrong")
    counts = {(row["reason"], row["qualifier"]): row["count"] for row in case["account"]["rows"] if row["level"] == 1}
    # an OUT, three INs, and one that is wider than what a minivisor has
    assert counts == {("cpuid", "0x4e560002"): 1, ("io", "0x5602"): 5}
    others = {row["reason"] for row in case["account"]["rows"] if row["level"] == 2}
    assert "hypercall" in others
    assert "io" not in others


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
