"""`nestvmm top`, and `nestvmm run` with --stats-interval and its companions."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from command import nestvmm, started
from machine_code import image, leave
from patience import PATIENCE
from test_console_input import read_until

pytestmark = pytest.mark.kvm

# mov edx, 0x80; 5: out dx, al; jmp 5
LOOP = bytes.fromhex("ba 80 00 00 00 ee eb fd")
TWO_TABLES = re.compile(" exits/s .* exits/s .*└".encode(), re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """XDG_RUNTIME_DIR."""
    home = tmp_path / "runtime"
    home.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    return home


def answering(home: Path, pid: int) -> None:
    end = time.monotonic() + PATIENCE
    while not (home / "nestvmm" / str(pid)).exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_is_watched_from_elsewhere(tmp_path: Path, home: Path) -> None:
    with started(*image(tmp_path, LOOP), stderr=subprocess.DEVNULL) as process:
        answering(home, process.pid)
        table = nestvmm("top", process.pid, "--interval", 0.2, "--count", 1)
        assert table.status == 0
        assert f"process {process.pid}: L1 by the direct engine" in table.out.decode()
        assert "│ L0    │ POST port │ io     │" in table.out.decode()
        lines = nestvmm("top", "--json", "--interval", 0.2, "--count", 3).out.splitlines()
        found = [json.loads(line) for line in lines]
        assert len(found) == 3
        for earlier, later in pairwise(found):
            rate = (later["exits"] - earlier["exits"]) / (later["seconds"] - earlier["seconds"])
            assert later["per_second"] == pytest.approx(rate, rel=1e-3)
        # the run goes on while it is read
        assert found[0]["rows"][0]["in_c"] == found[0]["rows"][0]["count"] > 1000
        process.send_signal(signal.SIGINT)
    assert list(home.iterdir()) == []
    assert "there is no process" in nestvmm("top", process.pid).failed(2)
    assert "no `nestvmm run` of yours is running" in nestvmm("top").failed(2)


def test_top_ends_with_the_run(tmp_path: Path, home: Path) -> None:
    with started(*image(tmp_path, LOOP), stderr=subprocess.DEVNULL) as process:
        answering(home, process.pid)
        with started("top", "--interval", 0.1, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as top:
            assert json.loads(top.stdout.readline())["exits"] > 0
            process.send_signal(signal.SIGTERM)
            assert top.wait(PATIENCE) == 0
            assert top.stderr.read() == b"nestvmm: the run has ended\n"


def test_what_a_killed_run_left_is_recognised(tmp_path: Path, home: Path) -> None:
    with started(*image(tmp_path, LOOP), stderr=subprocess.DEVNULL) as process:
        answering(home, process.pid)
        process.kill()
        process.wait(PATIENCE)
    assert (home / "nestvmm" / str(process.pid)).exists()
    assert "no `nestvmm run` of yours is running" in nestvmm("top").failed(2)
    assert not (home / "nestvmm" / str(process.pid)).exists()


def test_files_of_a_run(tmp_path: Path, home: Path) -> None:
    lines, text = tmp_path / "lines", tmp_path / "text"
    options = ("--stats-interval", 0.1, "--stats-jsonl", lines, "--stats-prometheus", text)
    with started(*image(tmp_path, LOOP), *options, stderr=subprocess.DEVNULL) as process:
        while not lines.exists() or lines.read_text().count("\n") < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(found) >= 4
    exits = [one["exits"] for one in found]
    assert exits == sorted(exits)
    counts = [int(line.split()[-1]) for line in text.read_text().splitlines() if line.startswith("nestvmm_exits_total")]
    assert sum(counts) == exits[-1] > 1000


def test_a_table_at_each_interval(tmp_path: Path, home: Path) -> None:
    """Below each other, and in its place on a terminal that is nobody else's."""
    options = (*image(tmp_path, LOOP), "--stats-interval", 0.2)
    with started(*options, stderr=subprocess.PIPE) as process:
        assert b"\x1b" not in read_until(process.stderr.fileno(), TWO_TABLES)
        process.send_signal(signal.SIGINT)
        assert b"\x1b" not in process.stderr.read()
        assert process.wait(PATIENCE) == 130
    ours, theirs = pty.openpty()
    with started(*options, stdout=subprocess.DEVNULL, stderr=theirs, stdin=subprocess.DEVNULL) as process:
        os.close(theirs)
        assert b"\x1b[1A" in read_until(ours, TWO_TABLES)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    os.close(ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stats-interval", 0), "--stats-interval 0: give 0.05 to 86400 seconds"),
        (("--stats-jsonl", "/none/x"), "--stats-jsonl /none/x: No such file or directory"),
        (("--stats-prometheus", "/none/x"), "--stats-prometheus /none/x: name a file in a folder that exists"),
    ],
)
def test_bad_options(tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    assert message in nestvmm(*image(tmp_path, leave(0)), *options).failed(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--interval", 0), "--interval 0: give 0.05"),
        (("--count", 0), "--count 0: give 1 or more"),
        ((1,), "process 1 is "),
        (("x",), "'x' is not a valid integer"),
    ],
)
def test_bad_arguments(home: Path, arguments: tuple[object, ...], message: str) -> None:
    ended = nestvmm("top", *arguments)
    assert (ended.status, message in ended.err) == (2, True)
