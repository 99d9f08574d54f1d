"""Snapshots, what happened between two of them, and how that is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import guest_code as guest
import pytest
from guest_code import Tower, spec_of

from nestvmm.errors import HostError, UsageError
from nestvmm.hypervisors import Event, Hypervisor, Result, on_io
from nestvmm.nesting import Clock, LevelSpec, Runner
from nestvmm.stats.form import json_line, prometheus
from nestvmm.stats.reporter import Reporter, json_lines, prometheus_file
from nestvmm.stats.snapshot import Meter, Rates, Row, Snapshot

UART = Row(0, "UART", "io", 100, 100, 0.001)
CLOCK = Row(2, 'The "clock"\\\n', "rdmsr", 10, 0, 0.5)
BEFORE = Snapshot(7, "direct", 3, 1000.0, 2.0, 110, (CLOCK, UART))
AFTER = replace(
    BEFORE, time=1002.0, seconds=4.0, exits=330, rows=(CLOCK, replace(UART, count=320, in_c=319, seconds=0.0032))
)


class Claiming(Hypervisor):
    """Claims another port with its first event, so that the tower's table is made anew."""

    @on_io(0x5000)
    def access(self, event: Event) -> Result:
        self.guest.claims_changed()
        return Result.read(1)


@pytest.mark.kvm
def test_a_snapshot_has_every_exit(tmp_path: Path) -> None:
    code = guest.repeat(20, guest.inp(0x5000) + guest.out(0x80, 1) + guest.load(0xFE000000, 4)) + guest.done()
    with Tower(spec_of(tmp_path, code, [LevelSpec(f"{__name__}:Claiming")]), stdout=-1) as tower:
        meter = Meter(tower, Clock())
        assert meter.read().exits == 0
        assert Runner(tower).run().status == 0
        now = meter.read()
    assert [(row.level, row.who, row.reason, row.count, row.in_c) for row in now.rows] == [
        (1, "Claiming", "io", 20, 0),
        (0, "POST port", "io", 20, 20),
        (0, "unclaimed", "mmio", 20, 20),
        (0, "debug exit", "io", 1, 0),
    ]
    assert (now.exits, now.engine, now.height) == (61, "direct", 2)
    assert all(row.seconds > 0 for row in now.rows)
    assert Snapshot.from_dict(json.loads(json.dumps(now.as_dict()))) == now


def test_rates_are_between_two_snapshots() -> None:
    rates = Rates.between(BEFORE, AFTER)
    assert rates.exits == 110
    assert rates.rows == ((0.0, None), (110.0, pytest.approx(10)))


def test_rates_since_the_start() -> None:
    assert Rates.between(None, BEFORE).rows == ((5.0, pytest.approx(50_000)), (50.0, pytest.approx(10)))


def test_a_line_of_json() -> None:
    line = json_line(Rates.between(BEFORE, AFTER))
    assert line.count("\n") == 1
    found = json.loads(line)
    assert (found["exits"], found["per_second"]) == (330, 110)
    assert found["rows"][1] == {
        "level": 0,
        "who": "UART",
        "reason": "io",
        "count": 320,
        "in_c": 319,
        "seconds": 0.0032,
        "per_second": 110,
        "mean_us": 10,
    }
    assert found["rows"][0]["mean_us"] is None


def test_prometheus_text() -> None:
    lines = prometheus(AFTER).splitlines()
    assert [line for line in lines if not line.startswith("# HELP")] == [
        "# TYPE nestvmm_exits_total counter",
        r'nestvmm_exits_total{pid="7",level="2",handler="The \"clock\"\\\n",reason="rdmsr",in_c="false"} 10',
        'nestvmm_exits_total{pid="7",level="0",handler="UART",reason="io",in_c="true"} 319',
        'nestvmm_exits_total{pid="7",level="0",handler="UART",reason="io",in_c="false"} 1',
        "# TYPE nestvmm_handling_seconds_total counter",
        r'nestvmm_handling_seconds_total{pid="7",level="2",handler="The \"clock\"\\\n",reason="rdmsr"} 0.500000000',
        'nestvmm_handling_seconds_total{pid="7",level="0",handler="UART",reason="io"} 0.003200000',
        "# TYPE nestvmm_run_seconds gauge",
        'nestvmm_run_seconds{pid="7",engine="direct",height="3"} 4.000',
    ]


class Script:
    """A meter that gives these snapshots, the last one again and again."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = list(snapshots)

    def read(self) -> Snapshot:
        return self._snapshots.pop(0) if len(self._snapshots) > 1 else self._snapshots[0]


def test_the_end_is_reported_whatever_the_interval(tmp_path: Path) -> None:
    lines, text = tmp_path / "lines", tmp_path / "text"
    with json_lines(lines) as to_lines, Reporter(Script(AFTER), 60, [to_lines, prometheus_file(text)]):  # type: ignore[arg-type]
        pass
    assert [json.loads(line)["exits"] for line in lines.read_text().splitlines()] == [330]
    assert text.read_text() == prometheus(AFTER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "text"]
    assert text.stat().st_mode & 0o777 == 0o644


def test_each_report_is_against_the_one_before(tmp_path: Path) -> None:
    seen: list[Rates] = []

    def see(rates: Rates) -> None:
        seen.append(rates)

    with Reporter(Script(BEFORE, AFTER), 0.05, [see]):  # type: ignore[arg-type]
        while len(seen) < 2:
            pass
    assert [rates.exits for rates in seen[:2]] == [55, 110]


@pytest.mark.parametrize("interval", [0, -1, 0.01, 1e9, float("nan")])
def test_bad_intervals(interval: float) -> None:
    with pytest.raises(UsageError, match=r"^--stats-interval .*: give 0.05 to 86400 seconds$"):
        Reporter(Script(AFTER), interval, [])  # type: ignore[arg-type]


def test_files_that_cannot_be(tmp_path: Path) -> None:
    message = r"^--stats-jsonl .*/none/x: No such file or directory$"
    with pytest.raises(UsageError, match=message), json_lines(tmp_path / "none" / "x"):
        pass
    (tmp_path / "device").symlink_to("/dev/null")
    for name, why in (
        ("none/x", "name a file in a folder that exists"),
        ("", "not a regular file; name one"),
        ("device", "not a regular file; name one"),
    ):
        with pytest.raises(UsageError, match=rf"^--stats-prometheus {tmp_path / name}: {why}$"):
            prometheus_file(tmp_path / name)


def test_a_folder_that_vanishes_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sink = prometheus_file(folder / "text")
    folder.rmdir()
    with (
        pytest.raises(HostError, match=rf"^statistics: {folder / 'text'}: No such file or directory$"),
        Reporter(Script(AFTER), 60, [sink]),  # type: ignore[arg-type]
    ):
        pass


def test_a_full_disk_is_told_at_the_end() -> None:
    message = r"^statistics: /dev/full: No space left on device$"
    with (
        json_lines(Path("/dev/full")) as sink,
        pytest.raises(HostError, match=message),
        Reporter(Script(AFTER), 60, [sink]),  # type: ignore[arg-type]
    ):
        pass
