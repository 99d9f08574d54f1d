"""The round trips' rows."""

from __future__ import annotations

import pytest

from nestvmm.bench.trips import measure_trips


@pytest.mark.kvm
def test_rows_of_a_tiny_run() -> None:
    rows = measure_trips(6, trips=10)
    heights = [4, 8, 16]
    assert [row.what for row in rows] == [
        "port exit, bare loop",
        "port exit, served in C",
        "port exit, served in Python",
        *(f"port exit, served in Python at L1, guest at L{height}" for height in heights),
        *(f"port exit, served in Python at L{height - 1}, guest at L{height}" for height in heights),
    ]
    assert [row.against for row in rows] == ["", "bare loop", "bare loop", *["guest at L2"] * 6]
    assert [row.goal for row in rows] == [None, 1.1, 1.6, *[1.1] * 6]
    assert {row.samples for row in rows} == {6}
    assert rows[0].ratio is None
    for row in rows[1:]:
        assert row.median is not None
        assert row.ratio is not None
        assert row.low is not None
        assert row.high is not None
        assert 0 < row.low <= row.ratio <= row.high


@pytest.mark.kvm
def test_ticks_instead_of_microseconds() -> None:
    bare = measure_trips(1, trips=10, unit="ticks")[0]
    assert bare.unit == "ticks"
    # a port exit is thousands of ticks and a few microseconds
    assert bare.median is not None
    assert bare.median > 500
