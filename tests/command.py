"""Runs the `nestvmm` command as a process of its own, and the guests that tests run with it."""

from __future__ import annotations

import atexit
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ROOT / "guests"
TOWER = GUESTS / "tower.toml"

#: What the console script of pyproject.toml does, from this checkout.
NESTVMM = (sys.executable, "-c", "from nestvmm.cli import main; main()")


@dataclass(frozen=True)
class Ended:
    """What a finished command left: its exit status (negative: a signal), output, time and memory."""

    status: int
    out: bytes
    err: str
    seconds: float
    peak: int  # bytes resident

    def failed(self, status: int) -> str:
        """The one message of a command that must have ended with this status, without a traceback."""
        assert (self.status, "Traceback" in self.err) == (status, False), self
        assert self.err.count("nestvmm: ") == 1, self
        return self.err


@functools.cache
def guest(name: str) -> Path:
    """The image of a guest of guests/, built if need be."""
    subprocess.run(("make", "-s", "-C", GUESTS), check=True, timeout=120)
    return GUESTS / name / f"{name}.elf"


# Compiled once for all the processes of a session, whatever the checkout's state and the caller's environment.
_CACHE = tempfile.TemporaryDirectory(prefix="nestvmm-pycache-")
atexit.register(_CACHE.cleanup)


def environment(temporary: str) -> Mapping[str, str]:
    ours = {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": _CACHE.name, "PYTHONWARNINGS": "error"}
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **ours, "TMPDIR": temporary, "COLUMNS": "80"}


@contextmanager
def started(*arguments: object, wrapper: tuple[str, ...] = (), **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a running process, in a session of its own, of which nothing is left at the end.

    wrapper: a command that is given nestvmm's as its arguments
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [*wrapper, *NESTVMM, *map(str, arguments)]
        settings = {"start_new_session": True, "cwd": ROOT, "env": environment(temporary), **options}
        process = subprocess.Popen(command, **settings)  # type: ignore[call-overload]
        try:
            yield process
            process.wait(PATIENCE)
            assert not group_exists(process.pid), "processes are left"
            assert not list(Path(temporary).iterdir()), "temporary files are left"
        finally:
            if group_exists(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in process.stdin, process.stdout, process.stderr:
                if stream is not None:
                    stream.close()


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def nestvmm(*arguments: object, stdin: bytes = b"", **options: object) -> Ended:
    """Runs the command to its end."""
    with tempfile.TemporaryFile() as fed, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        fed.write(stdin)
        fed.seek(0)
        began = time.monotonic()
        with started(*arguments, **{"stdin": fed, "stdout": out, "stderr": err, **options}) as process:
            peak = wait_for_peak(process)
            seconds = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        return Ended(process.returncode, out.read(), err.read().decode(), seconds, peak)


def wait_for_peak(process: subprocess.Popen[bytes]) -> int:
    """Waits for the process's end and gives the most memory that it was seen to have, in bytes.

    (The kernel's own ru_maxrss counts what the forking process had, too.)
    """
    peak = 0
    end = time.monotonic() + PATIENCE
    while process.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError(f"{process.args} hangs")
        with suppress(OSError):
            found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1]) * 1024) if found else peak
        time.sleep(0.005)
    return peak
