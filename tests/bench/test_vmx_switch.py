"""What a round trip through the switcher costs by VMX, in the VMX lab, whose clock counts instructions.

For that clock an exit of the processor is one instruction, so that what Python does weighs more than anywhere else:
its goal is for processors.
"""

from __future__ import annotations

import pytest
from command import GUESTS

from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import conduct_in
from nestvmm.bench.request import Request
from nestvmm.bench.row import Row
from nestvmm.lab import Lab

pytestmark = pytest.mark.vmx_lab

HEIGHTS = [4, 8, 16]


@pytest.fixture(scope="module")
def rows(vmx_lab: Lab) -> dict[str, Row]:
    with Journal(None, {}) as journal:
        request = Request(str(GUESTS), ("switch",), ("vmx",), runs=10, machine="VMX lab")
        _, _, failed = conduct_in(vmx_lab, request, journal, lambda total, name: None)
        assert failed == []
        return {row.what: row for rows in journal.done.values() for row in rows}


def test_l0s_c_code_adds_little_to_the_bare_loop(rows: dict[str, Row]) -> None:
    row = rows["served in C"]
    assert (row.against, row.met) == ("bare loop", True)
    assert row.ratio is not None
    assert row.ratio > 1


@pytest.mark.parametrize("height", HEIGHTS)
def test_no_height_costs_anything(height: int, rows: dict[str, Row]) -> None:
    row = rows[f"served in Python at L{height - 1}, guest at L{height}"]
    assert (row.against, row.level, row.met) == ("served in Python", height, True)
