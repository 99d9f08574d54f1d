"""What the tests of mixed towers share: running mixed_cases.py in a lab, and reading what it found."""

from __future__ import annotations

from typing import Any

from command import guest
from lab_cases import run_cases

from nestvmm.lab import Lab

OWN_PORT = 0x5600
READ, WRITE = 0, 1


def found_in(lab: Lab, vendor: str, *names: str) -> dict[str, Any]:
    """What these cases, or all, find, run in one go in the lab."""
    guest("minivisor")
    return run_cases(lab, "frontends/mixed_cases.py", vendor, *names)


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


#: What `arriving` cases keep: interrupts, interrupts of the next vector, NMIs that the guest took, and 0.
KEPT, PASSED = [0, 0, 0, 0], [1, 0, 1, 0]
_INTERRUPT, _NMI = 38, 39


def check_arriving(case: dict[str, Any], kept: list[int], *levels: int) -> None:
    """These Python levels saw one interrupt 0x40 and one NMI, as their own guests'."""
    assert case["kept"] == kept
    seen = {number: rows for number, rows in enumerate(case["seen"], start=1) if rows and rows[0][0] != 1}
    assert seen == {level: [[_INTERRUPT, level + 1, 0x40], [_NMI, level + 1, 0]] for level in levels}


def check_declined(case: dict[str, Any]) -> None:
    """As if nothing had happened before: the image at level 2 sees each access once, and level 1 none."""
    assert case["kept"] == [minivisors_answers(2), minivisors_answers(2, 1)]
    assert [[row[:3] for row in case["seen"][at]] for at in (0, 2)] == [
        [],
        [[4, OWN_PORT + 2, WRITE], [4, OWN_PORT + 2, READ], [4, OWN_PORT + 2, READ]],
    ]
    assert images(case)[2] == (3, 4)
    assert handled(case, 1, 2, 3) == [(2, "io", 3)]


def check_lent(case: dict[str, Any], image: int) -> None:
    """The level below the image took its control block, which its next exit was missing, and gave it back then."""
    assert case["kept"] == [1, 7 * 31 + image, image]
    assert case["heard"][image - 2] == [[0]], "the fault is at the block itself"
    assert (image - 1, "nested-page-fault", 1) in handled(case, image - 1)
    assert images(case)[image] == (2, 3), "it sees its exits once"
    assert handled(case, image) == [(image, "hypercall", 1), (image, "io", 1)], "and so does the account"
    assert case["exits"] == sum(count for *_, count in case["rows"])
