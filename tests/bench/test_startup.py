"""From exec to the first byte."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from nestvmm.bench import startup
from nestvmm.errors import HostError

MULTIBOOT = Path(__file__).resolve().parents[2] / "guests" / "multiboot" / "multiboot.elf"


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


def test_an_image_that_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="`make guests` builds it"):
        startup.measure_startup(tmp_path / "multiboot.elf", 1)


@pytest.mark.kvm
def test_without_qemu_the_row_says_so() -> None:
    theirs, ours = startup.measure_startup(MULTIBOOT, 1, qemu=False)
    assert theirs.median is None
    assert theirs.note == "not asked for (--no-qemu)"
    assert ours.median is not None
    assert (ours.unit, ours.samples, ours.ratio) == ("ms", 1, None)
    assert ours.median > 1


@pytest.mark.kvm
def test_qemu_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    theirs, _ = startup.measure_startup(MULTIBOOT, 1)
    assert theirs.note == "qemu-system-x86_64 is not installed: apt-get install qemu-system-x86"


@pytest.mark.kvm
def test_against_something_that_stands_for_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text('#!/bin/sh\nsleep 0.5\necho "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    theirs, ours = startup.measure_startup(MULTIBOOT, 2)
    assert theirs.median is not None
    assert theirs.median >= 500
    assert (ours.against, ours.goal, ours.samples) == ("QEMU", 1.0, 2)
    assert ours.ratio is not None
