"""What the tests of mixed towers share: running mixed_cases.py in a lab, and reading what it found."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from command import guest

from nestvmm.lab import Lab

TESTS = Path(__file__).parents[1]


def run_cases(lab: Lab, vendor: str, *names: str) -> dict[str, Any]:
    """These cases, or all, run in one go in the lab."""
    guest("minivisor")
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "loaders")))
    command = [sys.executable, str(TESTS / "frontends" / "mixed_cases.py"), vendor, *names]
    result = lab.run(command, env={"PYTHONPATH": path}, timeout=360)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def handled(case: dict[str, Any], *levels: int) -> list[tuple[int, str, int]]:
    """Level, reason and count of what these levels handled."""
    return [(level, reason, count) for level, _, reason, count in case["rows"] if level in levels]


def images(case: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """Exits that went to each image, and how often that entered its guest."""
    return {level: (exits, entries) for level, _, exits, entries, _ in case["images"]}


def minivisors_answers(level: int, count: int = 0) -> int:
    """What the port of the minivisor at this level reads after 3 was written."""
    return (3 * 31 + level + count) % 256


def faults(case: dict[str, Any], level: int) -> list[tuple[int, int, int]]:
    """What the Python hypervisor at `level` saw: level, address and direction."""
    return [tuple(row[:3]) for row in case["seen"][level - 1]]
