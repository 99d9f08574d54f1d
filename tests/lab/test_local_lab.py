"""What every lab does with commands, shown on LocalLab, whose agent and session are those of the SVM lab."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

from nestvmm.lab import LabError, LabResult, LabTimeoutError, LocalLab

MEGABYTE = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def lab() -> Iterator[LocalLab]:
    with LocalLab() as machine:
        yield machine


def test_streams_are_apart(lab: LocalLab) -> None:
    assert lab.run("echo out; echo err >&2") == LabResult(0, b"out\n", b"err\n")


def test_input_and_output_are_binary(lab: LocalLab) -> None:
    assert lab.run(["cat"], stdin=MEGABYTE) == LabResult(0, MEGABYTE, b"")


def test_input_comes_from_a_descriptor_too(lab: LocalLab, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(MEGABYTE)
    with (tmp_path / "input").open("rb") as source:
        assert lab.run(["cat"], stdin=source.fileno()).stdout == MEGABYTE


def test_input_from_a_pipe_arrives_while_the_command_runs(lab: LocalLab) -> None:
    reader, writer = os.pipe()
    answers: list[bytes] = []

    def answer(fd: int, data: bytes) -> None:
        answers.append(data)
        if len(answers) == 1:
            os.write(writer, b"more\n")
        else:
            os.close(writer)

    try:
        os.write(writer, b"first\n")
        assert lab.run(["cat"], stdin=reader, stream=answer, timeout=PATIENCE).status == 0
    finally:
        os.close(reader)
    assert answers == [b"first\n", b"more\n"]


def test_a_command_need_not_read_its_input(lab: LocalLab) -> None:
    assert lab.run(["true"], stdin=MEGABYTE) == LabResult(0, b"", b"")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        ("exit 77", 77),
        (["nestvmm-no-such-program"], 127),
        (["/etc/passwd"], 126),
        ("kill -9 $$", 128 + signal.SIGKILL),
        ("kill -SEGV $$", 128 + signal.SIGSEGV),
    ],
)
def test_exit_status(lab: LocalLab, command: str | list[str], status: int) -> None:
    assert lab.run(command).status == status


def test_a_program_that_is_not_there_is_named(lab: LocalLab) -> None:
    complaint = b"nestvmm lab: cannot run nestvmm-no-such-program: No such file or directory\n"
    assert lab.run(["nestvmm-no-such-program"]).stderr == complaint


def test_a_working_directory_that_is_not_there_is_named(lab: LocalLab) -> None:
    assert lab.run(["true"], cwd="/no/such").stderr == b"nestvmm lab: cannot run /no/such: No such file or directory\n"


def test_working_directory(lab: LocalLab, tmp_path: Path) -> None:
    assert lab.run(["pwd"]).stdout.decode() == f"{Path.cwd()}\n"
    assert lab.run(["pwd"], cwd=tmp_path).stdout.decode() == f"{tmp_path}\n"


def test_environment(lab: LocalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTVMM_A", "a=b c")
    monkeypatch.setenv("SECRET", "s")
    script = "import os; print([os.environ.get(n) for n in ('NESTVMM_A', 'SECRET', 'MORE', 'PATH')])"
    result = lab.run([sys.executable, "-c", script], env={"MORE": "é"})
    assert result.stdout.decode() == f"{['a=b c', None, 'é', os.environ['PATH']]}\n"


def test_a_stream_gets_output_as_it_comes_and_the_result_none(lab: LocalLab) -> None:
    pieces: list[tuple[int, bytes]] = []
    reader, writer = os.pipe()

    def take(fd: int, data: bytes) -> None:
        pieces.append((fd, data))
        os.write(writer, b"more\n")

    try:
        result = lab.run("echo a; read more; echo b >&2; read more; echo c", stdin=reader, stream=take)
    finally:
        os.close(reader)
        os.close(writer)
    assert pieces == [(1, b"a\n"), (2, b"b\n"), (1, b"c\n")]
    assert result == LabResult(0, b"", b"")


def test_timeout_kills_with_output_so_far_and_leaves_the_lab_usable(lab: LocalLab) -> None:
    start = time.monotonic()
    with pytest.raises(LabTimeoutError, match="killed after 2 s") as caught:
        lab.run("echo $$; sleep 60", timeout=2)
    assert time.monotonic() - start < 2 + 5
    assert not Path("/proc", caught.value.stdout.decode().strip()).exists()
    assert lab.run(["echo", "still"]).stdout == b"still\n"


def test_what_a_command_leaves_behind_is_killed(lab: LocalLab) -> None:
    pid = lab.run("sleep 60 >&- 2>&- & echo $!", timeout=PATIENCE).stdout.decode().strip()
    deadline = time.monotonic() + PATIENCE
    while Path("/proc", pid, "exe").exists() and time.monotonic() < deadline:  # a zombie has no exe
        time.sleep(0.01)
    assert not Path("/proc", pid, "exe").exists()


def test_ctrl_c_kills_the_command_and_leaves_the_lab_usable(lab: LocalLab) -> None:
    pids: list[bytes] = []

    def interrupt(fd: int, data: bytes) -> None:
        pids.append(data)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        lab.run("echo $$; sleep 60", stream=interrupt, timeout=PATIENCE)
    assert not Path("/proc", pids[0].decode().strip()).exists()
    assert lab.run(["echo", "still"]).stdout == b"still\n"


def test_a_stream_that_fails_ends_the_command(lab: LocalLab) -> None:
    def fail(fd: int, data: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        lab.run(["yes"], stream=fail)
    assert lab.run(["echo", "still"]).stdout == b"still\n"


def test_an_agent_that_died_is_an_error() -> None:
    with LocalLab() as lab, pytest.raises(LabError, match="the local lab's agent is lost: its channel closed"):
        lab.run("kill -9 $PPID", timeout=PATIENCE)
