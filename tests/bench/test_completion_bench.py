"""The benchmark of completed instructions, on a few samples."""

from __future__ import annotations

import pytest

from nestvmm.bench import measure_completion


@pytest.mark.kvm
def test_alone_and_in_a_batch() -> None:
    rows = measure_completion(5)
    assert [row.what for row in rows] == [
        "POPCNT completed alone",
        "POPCNT completed in a batch of 10000",
        "MULSD completed alone",
        "MULSD completed in a batch of 10000",
    ]
    for row in rows:
        assert row.unit == "us"
        assert (row.median is None) == bool(row.note)
        assert row.median is None or 0 < row.median < 100_000
