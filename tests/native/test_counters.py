"""Latency buckets, counters, and the set of what nobody claimed."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from nestvmm._native import ffi, lib

LAST = lib.NV_BUCKETS - 1
# the first latency behind the last bucket that is not open-ended
LIMIT = lib.nv_bucket_floor(LAST)


@pytest.mark.parametrize(
    ("ticks", "bucket"),
    [(0, 0), (7, 7), (8, 8), (15, 15), (16, 16), (17, 16), (18, 17), (31, 23), (32, 24), (1 << 63, 319)],
)
def test_bucket(ticks: int, bucket: int) -> None:
    assert lib.nv_bucket(ticks) == bucket


def test_buckets_follow_each_other() -> None:
    floors = [lib.nv_bucket_floor(bucket) for bucket in range(lib.NV_BUCKETS)]
    assert floors == sorted(set(floors))
    for bucket, floor in enumerate(floors):
        assert lib.nv_bucket(floor) == bucket
        if bucket:
            assert lib.nv_bucket(floor - 1) == bucket - 1


@given(st.integers(0, LIMIT - 1))
def test_a_floor_is_off_by_at_most_an_eighth(ticks: int) -> None:
    floor = lib.nv_bucket_floor(lib.nv_bucket(ticks))
    assert floor <= ticks <= floor + floor / 8


@given(st.integers(LIMIT, (1 << 64) - 1))
def test_the_last_bucket_takes_all_that_is_longer(ticks: int) -> None:
    assert lib.nv_bucket(ticks) == LAST


@given(st.lists(st.tuples(st.integers(0, 1 << 45), st.booleans()), max_size=50))
def test_counter_sums(additions: list[tuple[int, bool]]) -> None:
    counter = ffi.new("struct nv_counter *")
    for ticks, served in additions:
        lib.nv_counter_add(counter, ticks, served)
    assert counter.count == len(additions)
    assert counter.ticks == sum(ticks for ticks, _ in additions)
    assert counter.served == sum(served for _, served in additions)
    assert sum(counter.histogram) == len(additions)
    for ticks, _ in additions:
        assert counter.histogram[lib.nv_bucket(ticks)] > 0


def test_a_counter_is_read_between_two_events() -> None:
    """While another thread adds to it: the GIL is released in there, and each event takes 3 ticks."""
    counter, copy = ffi.new("struct nv_counter *"), ffi.new("struct nv_counter *")
    ended = threading.Event()

    def add() -> None:
        for _ in range(100_000):
            lib.nv_counter_add(counter, 3, 1)
        ended.set()

    thread = threading.Thread(target=add)
    thread.start()
    before = 0
    while not ended.is_set():
        lib.nv_counter_read(counter, copy)
        assert copy.count == copy.begun == copy.served == copy.histogram[3] >= before
        assert copy.ticks == 3 * copy.count
        before = copy.count
    thread.join()
    lib.nv_counter_read(counter, copy)
    assert copy.count == 100_000


def test_an_event_that_is_being_added_is_waited_for() -> None:
    """As when the thread that adds has lost its processor in the middle of it."""
    counter, copy = ffi.new("struct nv_counter *"), ffi.new("struct nv_counter *")
    counter.begun = 1
    reader = threading.Thread(target=lib.nv_counter_read, args=(counter, copy))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    counter.served = counter.ticks = 1
    counter.count = 1
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert (copy.count, copy.served, copy.ticks) == (1, 1, 1)


events = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 40) | st.integers(0, (1 << 64) - 1))


@given(st.lists(events, max_size=600))
def test_unclaimed_counts_every_event_once(stream: list[tuple[int, int, int]]) -> None:
    unclaimed = ffi.new("struct nv_unclaimed *")
    for event in stream:
        lib.nv_unclaimed_add(unclaimed, *event)
    rows = [row for row in unclaimed.row if row.count]
    counts = {(row.reason, row.direction, row.qualifier): row.count for row in rows}
    assert len(counts) == len(rows), "no event has two rows"
    assert sum(counts.values()) + unclaimed.lost == len(stream)
    for event, count in counts.items():
        assert count <= stream.count(event)
    if len(set(stream)) <= 8:
        assert unclaimed.lost == 0


def test_unclaimed_is_bounded_and_says_what_did_not_fit() -> None:
    unclaimed = ffi.new("struct nv_unclaimed *")
    for port in range(1000):
        lib.nv_unclaimed_add(unclaimed, lib.NV_REASON_IO, lib.NV_WRITE, port)
    kept = sum(row.count for row in unclaimed.row)
    assert kept <= lib.NV_UNCLAIMED
    assert kept + unclaimed.lost == 1000
    assert kept > lib.NV_UNCLAIMED // 2
