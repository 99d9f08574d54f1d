"""A run's socket: who can ask, what is left of it, and what is no run."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE

from nestvmm.errors import UsageError
from nestvmm.stats import runtime, server
from nestvmm.stats.client import Watched, running
from nestvmm.stats.snapshot import Row, Snapshot

NOW = Snapshot(os.getpid(), "direct", 3, 1000.0, 2.0, 100, (Row(0, "UART", "io", 100, 100, 0.001),))


class Meter:
    def read(self) -> Snapshot:
        return NOW


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # longer than a socket's name may be
    home = tmp_path / ("x" * 120)
    home.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    return home / "nestvmm"


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    done, at_the_end = os.pipe()
    thread = threading.Thread(target=server.serve, args=(Meter(), done))
    thread.start()
    while thread.is_alive() and not runtime.pids(folder):
        time.sleep(0.001)
    try:
        yield
    finally:
        os.close(at_the_end)
        thread.join(PATIENCE)
        os.close(done)
        assert not thread.is_alive()


def test_a_client_gets_the_counters(folder: Path) -> None:
    with serving(folder):
        assert running() == [os.getpid()]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with Watched(os.getpid()) as one, Watched(os.getpid()) as other:
            assert [one.read(), other.read(), one.read()] == [NOW] * 3
    assert not folder.exists()
    assert running() == []


def test_the_end_of_the_run_is_no_error(folder: Path) -> None:
    with serving(folder):
        watched = Watched(os.getpid())
        assert watched.read() == NOW
    with watched:
        assert watched.read() is None


def test_more_clients_than_there_is_room_for(folder: Path) -> None:
    with serving(folder):
        clients = [Watched(os.getpid()) for _ in range(12)]
        answers = [client.read() for client in clients]
        for client in clients:
            client.__exit__()
    assert answers == [NOW] * 8 + [None] * 4


def test_a_client_that_does_not_read_is_sent_away(folder: Path) -> None:
    with serving(folder):
        deaf = runtime.connect(folder, os.getpid())
        assert deaf is not None
        with deaf:
            deaf.settimeout(PATIENCE)
            with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
                ask_for_ever(deaf)
        with Watched(os.getpid()) as watched:
            assert watched.read() == NOW


def ask_for_ever(connection: socket.socket) -> None:
    for _ in range(100_000):
        connection.sendall(b"\n")


def test_a_socket_that_does_not_answer_yet_has_no_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who looks for runs then, as every new run does, would remove it."""
    seen: list[list[int]] = []

    class Observed(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            seen.append(runtime.pids(folder))
            super().listen(backlog)

    monkeypatch.setattr(server.socket, "socket", Observed)
    with serving(folder):
        assert (seen, running()) == ([[]], [os.getpid()])
    assert not folder.exists()


def test_a_socket_that_nobody_answers_is_removed(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with runtime.open_folder(folder) as short, socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short / "4242"))
    assert runtime.pids(folder) == [4242]
    assert running() == []
    assert runtime.pids(folder) == []


def test_a_run_sweeps_what_others_left(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for pid in 4242, os.getpid():
        with runtime.open_folder(folder) as short, socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(short / str(pid)))
    with serving(folder):
        while running() != [os.getpid()]:
            time.sleep(0.001)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("pid", "message"),
    [
        (1 << 40, r"^there is no process 1099511627776; none of this user's is running$"),
        (os.getpid(), rf"^process {os.getpid()} is no `nestvmm run`; none of this user's is running$"),
    ],
    ids=["nobody's", "this one's"],
)
def test_what_is_no_run(pid: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Watched(pid)


def test_the_runs_that_there_are_are_named(folder: Path) -> None:
    with serving(folder), pytest.raises(UsageError, match=rf"; these are: {os.getpid()}$"):
        Watched(1 << 40)


@pytest.mark.parametrize("answer", [b"{}\n", b"[1]\n", b"garbage\n", b'{"rows": 1}\n'])
def test_another_programs_socket(folder: Path, answer: bytes) -> None:
    folder.mkdir(mode=0o700)
    with runtime.open_folder(folder) as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short / "4242"))
        listener.listen()
        watched = Watched(4242)
        with watched, listener.accept()[0] as other:
            other.sendall(answer)
            with pytest.raises(UsageError, match=r"^process 4242 does not answer as this version of nestvmm does$"):
                watched.read()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_others_can_enter_is_not_used(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with serving(folder):
        assert runtime.pids(folder) == []


def test_without_a_runtime_folder_it_is_among_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert runtime.folder() == tmp_path / f"nestvmm-{os.getuid()}"
    with serving(runtime.folder()):
        assert running() == [os.getpid()]
    assert not runtime.folder().exists()
