"""What a round trip through the switcher costs by VMX, in the VMX lab.

The lab's clock counts instructions, and an exit of the processor is one of them: what Python does weighs more there
than anywhere else, and misses its goal.
"""

from __future__ import annotations

import pytest
from command import GUESTS

from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import conduct_in
from nestvmm.bench.request import Request
from nestvmm.lab import Lab


@pytest.mark.vmx_lab
def test_what_a_round_trip_costs(vmx_lab: Lab) -> None:
    request = Request(str(GUESTS), ("switch",), engines=("vmx",), heights=(2, 16), runs=10, machine="VMX lab")
    with Journal(None, {}) as journal:
        *_, failed = conduct_in(vmx_lab, request, journal, lambda total, name: None)
        rows = [row for rows in journal.done.values() for row in rows]
    assert not failed
    assert [row.what for row in rows] == [
        *("bare loop", "bare loop in Python", "served in C", "served in Python"),
        "served in Python at L15, guest at L16",
    ]
    assert {row.engine for row in rows} == {"vmx"}
    bare, floor, in_c, in_python, high = rows
    assert bare.median is not None
    assert in_c.median is not None
    assert floor.median is not None
    assert bare.median < floor.median
    assert bare.median < in_c.median
    assert max(floor.median, in_c.median) < (in_python.median or 0)
    assert (in_c.goal, in_python.goal) == (1.15, 1.4)
    assert (in_c.met, high.met) == (True, True)
