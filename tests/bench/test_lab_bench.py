"""What is measured in the SVM lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvmm.bench.lab import measure_lab, rtt_ticks
from nestvmm.errors import HostError

RTT = Path(__file__).resolve().parents[2] / "guests" / "rtt" / "rtt.elf"


def test_the_guests_figure() -> None:
    assert rtt_ticks("x\nrtt port-in count 1000 min 3297 median 3299 cycles\n") == 3299


def test_a_guest_that_says_something_else() -> None:
    with pytest.raises(HostError, match="rtt printed 'rtt: name a kind', not its cycles"):
        rtt_ticks("rtt: name a kind")


@pytest.mark.svm_lab
def test_rows_and_the_goal() -> None:
    rows = measure_lab(RTT)
    bare, in_c, in_python = rows[:3]
    assert [row.unit for row in (bare, in_c, in_python)] == ["ticks"] * 3
    assert bare.median is not None
    assert in_c.median is not None
    assert in_python.median is not None
    # the clock counts instructions there: no load on this machine changes these
    assert bare.median < in_c.median < in_python.median
    assert in_c.met
    # CPUID through the switcher: in C, in Python, and flat
    assert [row.met for row in rows[3:] if row.goal is not None] == [True] * 5
