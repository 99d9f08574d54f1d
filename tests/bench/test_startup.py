"""From exec to the first byte."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from nestvmm.bench import startup
from nestvmm.bench.case import Choice
from nestvmm.bench.row import Row
from nestvmm.errors import HostError

GUESTS = Path(__file__).resolve().parents[2] / "guests"


def python(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]


def test_the_first_byte_is_waited_for_and_the_rest_is_not() -> None:
    assert (
        0.3 <= startup.first_byte(python("import time; time.sleep(0.3); print('x', flush=True); time.sleep(99)")) < 90
    )


def test_a_program_that_says_nothing_but_why() -> None:
    with pytest.raises(HostError, match="ended without output: no such disk"):
        startup.first_byte(python("import sys; sys.exit('no such disk')"))


def test_a_program_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_LIMIT", 0.2)
    with pytest.raises(HostError, match=r"said nothing for 0\.2 s"):
        startup.first_byte(python("import time; time.sleep(99)"))


def choice(guests: Path, runs: int, peer: bool = False) -> Choice:
    return Choice(("direct",), guests, 1000.0, runs=runs, peer=peer)


def measured(choice: Choice) -> list[Row]:
    (step,) = startup.Startup().steps(choice)
    return step.measure()


def test_an_image_that_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="`make guests` builds it"):
        measured(choice(tmp_path, 1))


@pytest.mark.kvm
def test_alone() -> None:
    (ours,) = measured(choice(GUESTS, 1))
    assert ours.median is not None
    assert (ours.what, ours.unit, ours.clock, len(ours.runs), ours.ratio) == ("nestvmm", "ms", "host", 1, None)
    assert ours.median > 1


@pytest.mark.kvm
def test_qemu_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(HostError, match="qemu-system-x86_64 is not installed: apt-get install qemu-system-x86"):
        measured(choice(GUESTS, 1, peer=True))


@pytest.mark.kvm
def test_against_something_that_stands_for_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text('#!/bin/sh\nsleep 0.5\necho "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    theirs, ours = measured(choice(GUESTS, 2, peer=True))
    assert theirs.median is not None
    assert theirs.median >= 500
    assert (ours.against, ours.goal, len(ours.runs), theirs.system) == ("QEMU", 1.0, 2, "QEMU")
    assert ours.ratio is not None
