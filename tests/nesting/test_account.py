"""The account of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import guest_code as guest
import pytest
from guest_code import Tower, run_in, spec_of

from nestvmm._native import ffi, lib
from nestvmm.hypervisors import Event, Hypervisor, Result, on_io, on_mmio
from nestvmm.nesting import Account, Clock, LevelSpec
from nestvmm.nesting.account import _quantile


class Low(Hypervisor):
    @on_io(0x5000, 16)
    @on_mmio(0xD0000000, 0x1000)
    def access(self, event: Event) -> Result:
        return Result.read(1)


class High(Hypervisor):
    @on_io(0x5008, 8)
    def access(self, event: Event) -> Result:
        if event.qualifier == 0x500F:
            return Result.declined()
        return Result.read(2)


@pytest.mark.kvm
def test_every_exit_is_one_rows_by_level_reason_and_range(tmp_path: Path) -> None:
    code = guest.repeat(3, guest.inp(0x5000)) + guest.repeat(5, guest.inp(0x5008)) + guest.inp(0x500F)
    code += guest.load(0xD0000000) + guest.out(0x80, 1) + guest.inp(0x61F0) + guest.load(0xFE000000) + guest.done()
    levels = [LevelSpec(f"{__name__}:Low"), LevelSpec("logger", {"limit": 0}), LevelSpec(f"{__name__}:High")]
    with Tower(spec_of(tmp_path, code, levels), stdout=-1) as tower:
        clock = Clock()
        started = time.monotonic()
        assert run_in(tower).status == 0
        account = Account.of(tower, clock, time.monotonic() - started)
    assert [(row.level, row.who, row.reason, row.qualifier, row.count, row.served_in_c) for row in account.rows] == [
        (3, "High", "io", "0x5008-0x500f", 5, 0),
        (1, "Low", "io", "0x5000-0x500f", 4, 0),
        (1, "Low", "mmio", "0xd0000000-0xd0000fff", 1, 0),
        (0, "POST port", "io", "0x80", 1, 0),
        (0, "debug exit", "io", "0xf4-0xf7", 1, 0),
        (0, "L0 default", "io", "unclaimed", 1, 0),
        (0, "L0 default", "mmio", "unclaimed", 1, 1),
    ]
    assert account.exits == sum(row.count for row in account.rows) == 14
    assert (account.height, account.engine, account.unclaimed_lost) == (4, "direct", 0)
    assert [(one.reason, one.qualifier, one.direction, one.count) for one in account.unclaimed] == [
        ("io", "0x61f0", "read", 1),
        ("mmio", "0xfe000000", "read", 1),
    ]
    for row in account.rows:
        assert 0 < row.mean_ns < account.seconds * 1e9
        # the slowest event's bucket reaches 1/8 beyond it
        assert row.mean_ns <= row.p99_ns * 1.13 or row.count > 1
    assert json.loads(json.dumps(account.as_dict()))["rows"][0]["count"] == 5


@pytest.mark.parametrize(
    ("latencies", "quantile", "edge"),
    [
        ([5], 0.99, 6),
        ([5] * 99 + [1000], 0.99, 6),
        ([5] * 98 + [1000] * 2, 0.99, 1024),
        ([100, 200, 300, 400], 0.5, 208),
        ([0], 0.99, 1),
    ],
)
def test_a_quantile_is_the_upper_edge_of_its_bucket(latencies: list[int], quantile: float, edge: int) -> None:
    counter = ffi.new("struct nv_counter *")
    for latency in latencies:
        lib.nv_counter_add(counter, latency, 0)
    assert _quantile(counter, quantile) == edge


def test_clock_converts_ticks_to_the_wall_clocks_nanoseconds() -> None:
    clock = Clock()
    # the ticks are read within the longer time, and around the shorter one: this thread may have to wait anywhere
    first = time.monotonic_ns()
    ticks = lib.nv_ticks()
    second = time.monotonic_ns()
    time.sleep(0.05)
    third = time.monotonic_ns()
    elapsed = (lib.nv_ticks() - ticks) * clock.ns_per_tick()
    assert 0.8 * (third - second) <= elapsed <= 1.2 * (time.monotonic_ns() - first)
