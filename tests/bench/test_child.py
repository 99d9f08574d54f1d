"""Programs that are measured."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from nestvmm.bench.child import child, finished


def test_to_its_end() -> None:
    ended = finished(["sh", "-c", "cat; echo out; echo err >&2; exit 3"], 60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"out\n", b"err\n")


def test_one_that_does_not_end() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        finished(["sleep", "600"], 0.1)


def test_nothing_is_left() -> None:
    with pytest.raises(ZeroDivisionError), child(["sleep", "600"]) as process:
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGKILL


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError), child(["/none"]):
        pass


def test_a_signal_while_it_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Popen tells who asked for the child only after it has been made."""
    made: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            made.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt), child(["sleep", "600"]):
        raise AssertionError("it came too late")
    assert [process.returncode for process in made] == [-signal.SIGKILL]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread() -> None:
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(finished, ["echo", "out"], 60).result().stdout == b"out\n"
