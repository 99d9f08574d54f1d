"""guests/launcher runs the other guests through /dev/kvm."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from command import guest
from patience import PATIENCE


def launched(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [guest("launcher"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.kvm
def test_a_guest_speaks_and_ends() -> None:
    ended = launched(guest("hello"), "walk=1", "level=2")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == "hello from level 2"
    assert "256 pages hold what was written" in ended.stdout


@pytest.mark.kvm
@pytest.mark.parametrize("kind", ["cpuid", "port-in", "mmio", "timer"])
def test_a_guest_measures_itself(kind: str) -> None:
    ended = launched(guest("rtt"), kind, "count=5", "runs=3")
    assert ended.returncode == 0, ended
    assert len(re.findall(rf"^rtt {kind} count 5 min \d+ median \d+ cycles$", ended.stdout, re.MULTILINE)) == 3


@pytest.mark.kvm
def test_a_guest_lists_each_exit() -> None:
    ended = launched(guest("rtt"), "cpuid", "count=5", "runs=3", "list")
    assert ended.returncode == 0, ended
    lines = re.findall(r"^rtt cpuid cycles((?: \d+)+)$", ended.stdout, re.MULTILINE)
    assert [len(line.split()) for line in lines] == [5, 5, 5]
    assert all(int(cycles) > 0 for line in lines for cycles in line.split())


@pytest.mark.kvm
def test_the_guests_status_is_its_own() -> None:
    assert launched(guest("rtt"), "tea").returncode == 2


@pytest.mark.kvm
def test_what_is_no_image(tmp_path: Path) -> None:
    image = guest("rtt").read_bytes()
    for name, data, complaint in (
        ("text", b"hello", "no ELF64 image"),
        ("short", image[:100], "no ELF64 image"),
        ("cut", image[:5000], "does not fit"),
        ("empty", b"", "no ELF64 image"),
    ):
        (tmp_path / name).write_bytes(data)
        ended = launched(tmp_path / name)
        assert (ended.returncode, complaint in ended.stderr) == (2, True), (name, ended)
    assert launched(tmp_path / "none").returncode == 2
    assert launched(guest("rtt"), "x" * 5000).returncode == 2
