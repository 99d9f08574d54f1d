"""Chrome's trace events, as Perfetto's own trace processor sees them."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command import TOWER, group_exists, guest, nestvmm, started
from patience import PATIENCE
from trace_processor import TraceProcessor

pytestmark = pytest.mark.kvm


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demonstration tower's trace and account."""
    folder = tmp_path_factory.mktemp("trace")
    guest("events")
    assert nestvmm("run", TOWER, "--trace", folder / "trace.json", "--json", folder / "account.json").status == 0
    return folder / "trace.json", json.loads((folder / "account.json").read_text())


@pytest.fixture(scope="module")
def processor(run: tuple[Path, dict[str, Any]]) -> Any:
    with TraceProcessor(run[0]) as one:
        yield one


def test_perfetto_takes_it_without_a_complaint(processor: TraceProcessor) -> None:
    assert processor.query("SELECT name, value FROM stats WHERE severity != 'info' AND value > 0") == []


def test_slices_are_as_many_as_the_account_counts(run: tuple[Path, dict[str, Any]], processor: TraceProcessor) -> None:
    exits = run[1]["exits"]
    counts = processor.query("SELECT category, count(*) FROM slice GROUP BY category ORDER BY category")
    assert counts == [("exit", exits), ("guest", exits), ("handler", exits)]
    found = processor.query(
        """
        SELECT extract_arg(arg_set_id, 'args.reason') AS reason, extract_arg(arg_set_id, 'args.level') AS level,
               extract_arg(arg_set_id, 'args.who') AS who, count(*), sum(extract_arg(arg_set_id, 'args.in_c'))
        FROM slice WHERE category = 'exit' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        """
    )
    counted: dict[tuple[str, int, str], list[int]] = {}
    for row in run[1]["rows"]:
        sums = counted.setdefault((row["reason"], row["level"], row["who"]), [0, 0])
        sums[0] += row["count"]
        sums[1] += row["served_in_c"]
    assert found == [(*key, *sums) for key, sums in sorted(counted.items())]


def test_each_level_has_its_track(processor: TraceProcessor) -> None:
    tracks = processor.query(
        """
        SELECT process.name AS level, thread.name AS vcpu, category, count(*) > 0 FROM slice
        JOIN thread_track ON slice.track_id = thread_track.id JOIN thread USING (utid) JOIN process USING (upid)
        GROUP BY 1, 2, 3 ORDER BY 1, 3
        """
    )
    assert tracks == [
        ("L0 nestvmm", "vCPU 0", "exit", 1),
        ("L0 nestvmm", "vCPU 0", "handler", 1),
        ("L1 Resuming", "vCPU 0", "handler", 1),
        ("L2 Emulating", "vCPU 0", "handler", 1),
        ("L3 Areas", "vCPU 0", "handler", 1),
        ("L4 guest", "vCPU 0", "guest", 1),
    ]


def test_an_arrow_leads_from_each_exit_to_its_handler(
    run: tuple[Path, dict[str, Any]], processor: TraceProcessor
) -> None:
    arrows = processor.query(
        """
        SELECT gone.category AS source, come.category AS target, come.name AS who, count(*) AS count,
               min(come.ts >= gone.ts + gone.dur) AS later FROM flow
        JOIN slice AS gone ON flow.slice_out = gone.id JOIN slice AS come ON flow.slice_in = come.id
        GROUP BY 1, 2, 3 ORDER BY 3
        """
    )
    counted: dict[str, int] = {}
    for row in run[1]["rows"]:
        counted[row["who"]] = counted.get(row["who"], 0) + row["count"]
    assert arrows == [("guest", "handler", who, count, 1) for who, count in sorted(counted.items())]


def test_what_a_slice_says(processor: TraceProcessor) -> None:
    rows = processor.query(
        """
        SELECT name, extract_arg(arg_set_id, 'args.qualifier'), extract_arg(arg_set_id, 'args.instruction'),
               extract_arg(arg_set_id, 'args.rip') != '0x0'
        FROM slice WHERE category = 'exit' AND extract_arg(arg_set_id, 'args.reason') IN ('hlt', 'rdmsr', 'wrmsr')
             OR name = 'io 0xf4'
        GROUP BY 1, 2, 3 ORDER BY 1
        """
    )
    assert {(name.split()[0], text) for name, _, text, _ in rows} == {
        ("hlt", "hlt"),
        ("rdmsr", "rdmsr"),
        ("wrmsr", "wrmsr"),
        ("io", "out 0F4h,al"),
    }
    assert all(known for *_, known in rows)
    assert all(name == reason_and(qualifier, name) for name, qualifier, *_ in rows)


def reason_and(qualifier: str, name: str) -> str:
    reason = name.partition(" ")[0]
    return reason if reason == "hlt" else f"{reason} {qualifier}"


def test_it_is_whole_when_the_run_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGKILL, so that nothing of ours can close it; nor take away its socket."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    code = tmp_path / "loop.bin"
    code.write_bytes(bytes.fromhex("ba 80 00 00 00 ee eb fd"))  # mov edx, 0x80; 5: out dx, al; jmp 5
    trace = tmp_path / "trace.json"
    with started("run", code, "--address", "0x100000", "--trace", trace) as process:
        while not trace.exists() or trace.stat().st_size < 1 << 20:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        # a write that has begun ends in a process of its own
        deadline = time.monotonic() + PATIENCE
        while group_exists(process.pid):
            assert time.monotonic() < deadline, "a process is left"
    numbers = [one["args"]["n"] for one in json.loads(trace.read_text())["traceEvents"] if one.get("cat") == "exit"]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 1000
