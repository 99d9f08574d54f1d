"""A stand-in for QEMU, which runs the lab's agent on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nestvmm.lab import agent

STAND_IN = f"""#!{sys.executable} -ISB
import os, re, sys, time
boots = open({{log!r}}, "a+")
boots.seek(0)
boot = len(boots.readlines()) + 1
print(os.getpid(), file=boots, flush=True)
fd = re.search("id=agent,fd=([0-9]+)", " ".join(sys.argv))[1]
serve = lambda: os.execv(sys.executable, [sys.executable, "-ISB", {agent.__file__!r}, fd])
def abort():
    print("qemu-system-x86_64: ../accel/tcg/tcg-accel-ops.c:79: tcg_handle_interrupt: Assertion failed.", flush=True)
    os.abort()
def hang():
    print("rcu: INFO: rcu_preempt self-detected stall on CPU", flush=True)
    time.sleep(60)
def serve_and(end):
    if os.fork() == 0:
        serve()
    time.sleep(1)
    end()
{{script}}
"""


@pytest.fixture
def boots(tmp_path: Path) -> Callable[[], list[int]]:
    """The process of each start of the stand-in so far."""
    log = tmp_path / "boots"
    return lambda: [int(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts it before QEMU on the PATH; it runs a script that knows `boot`, the number of this start."""

    def install(script: str) -> None:
        program = tmp_path / "qemu-system-x86_64"
        program.write_text(STAND_IN.format(log=str(tmp_path / "boots"), script=script))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install
