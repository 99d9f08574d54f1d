"""Traces: every event of a run, in order, whatever the ring holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import guest_code as guest
import pytest
from guest_code import Tower, spec_of

from nestvmm.errors import HostError, UsageError
from nestvmm.hypervisors import Event, Hypervisor, Result, on_io
from nestvmm.nesting import Account, Clock, LevelSpec, Runner
from nestvmm.trace import Recorder, recorder

pytestmark = pytest.mark.kvm


class Answers(Hypervisor):
    @on_io(0x5000)
    def access(self, event: Event) -> Result:
        return Result.read(0x123456)


def traced(folder: Path, code: bytes) -> tuple[list[dict[str, Any]], Account]:
    file = folder / "trace.jsonl"
    levels = [LevelSpec("logger", {"limit": 0, "first": 0, "last": 0}), LevelSpec(f"{__name__}:Answers")]
    with Tower(spec_of(folder, code, levels), stdout=-1) as tower:
        clock = Clock()
        with Recorder(file, tower, clock) as trace:
            assert Runner(tower, drain=trace.drain).run().status == 0
        account = Account.of(tower, clock, 1)
    return [json.loads(line) for line in file.read_text().splitlines()], account


@pytest.mark.parametrize("ring", [1, 4, 64, 4096])
def test_nothing_is_lost_when_the_ring_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring: int) -> None:
    monkeypatch.setattr(recorder, "RING", ring)
    body = guest.inp(0x5000) + guest.out(0x80, 1) + guest.out(0x80, 2)
    lines, account = traced(tmp_path, guest.repeat(100, body) + guest.done())
    assert [line["n"] for line in lines] == list(range(301))
    assert [(line["qualifier"], line["value"]) for line in lines[:-1]] == [(0x5000, 0x56), (0x80, 1), (0x80, 2)] * 100
    assert account.exits == 301
    assert [line["ticks"] for line in lines] == sorted(line["ticks"] for line in lines)


def test_a_line_says_what_happened_and_who_handled_it(tmp_path: Path) -> None:
    code = guest.inp(0x5000, 2) + guest.out(0xE9, 0x21) + guest.load(0xFE000000, 4) + guest.done()
    lines, _ = traced(tmp_path, code)
    parts = ("decode_ns", "route_ns", "handle_ns", "complete_ns")
    assert all(line["ns"] == sum(line.pop(part) for part in parts) > 0 for line in lines)
    assert all(line.pop("ns") > 0 for line in lines)
    assert all(line.pop("ticks") > 0 for line in lines)
    assert all(line.pop("guest_ns") > 0 for line in lines)
    assert all(line.pop("entries") >= 1 for line in lines)
    assert [line.pop("instruction") for line in lines] == ["in ax,dx", "out dx,al", "mov eax,[rdi]", "out dx,al"]
    at = [code.index(part) for part in (b"\x66\xed", b"\xee", b"\x8b\x07")] + [code.rindex(b"\xee")]
    assert [line.pop("rip") for line in lines] == [guest.CODE + offset for offset in at]
    common = {"level": 3, "count": 1, "info": 0}
    assert lines == [
        common
        | {"n": 0, "reason": "io", "raw": 2, "qualifier": 0x5000, "direction": "read", "size": 2, "value": 0x3456}
        | {"handler": 2, "who": "Answers", "in_c": False},
        common
        | {"n": 1, "reason": "io", "raw": 2, "qualifier": 0xE9, "direction": "write", "size": 1, "value": 0x21}
        | {"handler": 0, "who": "debug console", "in_c": True},
        common
        | {"n": 2, "reason": "mmio", "raw": 6, "qualifier": 0xFE000000, "direction": "read", "size": 4}
        | {"value": 0xFFFFFFFF, "handler": 0, "who": "unclaimed", "in_c": True},
        common
        | {"n": 3, "reason": "io", "raw": 2, "qualifier": 0xF4, "direction": "write", "size": 1, "value": 0}
        | {"handler": 0, "who": "debug exit", "in_c": False},
    ]


def test_a_file_that_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    with (
        Tower(spec_of(tmp_path, guest.done()), stdout=-1) as tower,
        pytest.raises(UsageError, match=r"^trace file .*/none/x: No such file or directory$"),
    ):
        Recorder(tmp_path / "none" / "x", tower, Clock())


def test_a_full_disk_ends_the_run_with_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RING", 64)
    code = guest.repeat(2000, guest.out(0x80, 1)) + guest.done()
    with Tower(spec_of(tmp_path, code), stdout=-1) as tower:
        message = r"^trace file /dev/full: No space left on device$"
        with pytest.raises(HostError, match=message), Recorder(Path("/dev/full"), tower, Clock()) as trace:
            Runner(tower, drain=trace.drain).run()
