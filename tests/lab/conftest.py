"""Stand-ins for QEMU and Bochs, which run the lab's agent on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nestvmm.lab import agent

STAND_IN = f"""#!{sys.executable} -ISB
import os, re, socket, sys, time
boots = open({{log!r}}, "a+")
boots.seek(0)
boot = len(boots.readlines()) + 1
print(os.getpid(), file=boots, flush=True)
if "-rc" in sys.argv:
    config = open(sys.argv[sys.argv.index("-f") + 1]).read()
    console = open(re.search("com1:.*dev=(.*)", config)[1], "w")
    connect = lambda: socket.create_connection(("127.0.0.1", int(re.search("com2:.*:([0-9]+)", config)[1]))).detach()
else:
    console = open(re.search("file:(/dev/fd/[0-9]+)", " ".join(sys.argv))[1], "w")
    connect = lambda: int(re.search("id=agent,fd=([0-9]+)", " ".join(sys.argv))[1])
def serve():
    fd = connect()
    os.set_inheritable(fd, True)
    os.execv(sys.executable, [sys.executable, "-ISB", {agent.__file__!r}, str(fd)])
def abort():
    print("emulator: Assertion failed.", flush=True)
    os.abort()
def hang(last_words="rcu: INFO: rcu_preempt self-detected stall on CPU"):
    print(last_words, file=console, flush=True)
    time.sleep(60)
def serve_and(end):
    server = os.fork()
    if server == 0:
        serve()
    while not open("/proc/%d/task/%d/children" % (server, server)).read():  # it runs no command yet
        time.sleep(0.01)
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
    """Puts it before QEMU and Bochs on the PATH; it runs a script that knows `boot`, the number of this start."""

    def install(script: str) -> None:
        for name in ("qemu-system-x86_64", "bochs"):
            program = tmp_path / name
            program.write_text(STAND_IN.format(log=str(tmp_path / "boots"), script=script))
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install
