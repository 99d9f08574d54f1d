"""The benchmark of completed instructions, on a few samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvmm.bench.case import Choice
from nestvmm.bench.completion import Completion


@pytest.mark.kvm
def test_alone_and_in_a_batch() -> None:
    steps = list(Completion().steps(Choice(("direct",), Path(), 1000.0, runs=5)))
    rows = [row for step in steps for row in step.measure()]
    assert [row.what for row in rows] == [
        "POPCNT alone",
        "POPCNT in a batch of 10000",
        "MULSD alone",
        "MULSD in a batch of 10000",
    ]
    for row in rows:
        assert row.unit == "us"
        assert (row.median is None) == bool(row.note)
        assert row.median is None or (0 < row.median < 100_000 and len(row.runs) == 5)
