"""How a run is ended from outside: Ctrl-C and other signals, readers that go away, streams that are closed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest
from command import NESTVMM, environment, guest, nestvmm, started
from machine_code import CHATTER, ECHO, LOOP, image, leave, out, say
from patience import PATIENCE
from test_console_input import CONTROLLING, read_until, terminal

pytestmark = pytest.mark.kvm

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

# What a guest may be doing when the end comes.
BUSY = {
    "loops": (LOOP, []),
    "loops on a PC": (LOOP, ["-M", "pc"]),
    "halts on a PC": (bytes.fromhex("fa f4 eb fc"), ["-M", "pc"]),
    "halts and waits for an interrupt": (bytes.fromhex("fb f4 eb fc"), []),
    "exits to C": (out(0x80, 1) + b"\xeb\xfd", []),
    "exits to Python": (out(0x80, 1) + b"\xeb\xfd", ["--level", "logger,limit=0"]),
}


def interrupt(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> float:
    """Sends a signal and gives the seconds until the process ended."""
    began = time.monotonic()
    process.send_signal(number)
    process.wait(PATIENCE)
    return time.monotonic() - began


@pytest.mark.parametrize("busy", BUSY)
def test_ctrl_c(tmp_path: Path, busy: str) -> None:
    code, options = BUSY[busy]
    with started(*image(tmp_path, say(b"ready\n") + code), *options, **PIPES) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.1)
        seconds = interrupt(process)
        assert (process.returncode, process.stderr.read()) == (130, b"nestvmm: ended by SIGINT\n")
        assert seconds < 5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals(tmp_path: Path, number: signal.Signals, status: int) -> None:
    with started(*image(tmp_path, say(b"ready\n") + LOOP), **PIPES) as process:
        assert process.stdout.readline() == b"ready\n"
        interrupt(process, number)
        assert (process.returncode, process.stderr.read()) == (status, f"nestvmm: ended by {number.name}\n".encode())


def test_signals_that_are_ignored_stay_ignored(tmp_path: Path) -> None:
    wrapper = ("sh", "-c", 'trap "" HUP INT; exec "$@"', "sh")
    code = image(tmp_path, say(b"ready\n") + ECHO)
    with started(*code, stdin=subprocess.PIPE, wrapper=wrapper, **PIPES) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        process.stdin.write(b"still here\n\x04")
        process.stdin.close()
        assert process.stdout.read() == b"still here\n"
        assert process.wait(PATIENCE) == 0


def test_ctrl_c_again_and_again(tmp_path: Path) -> None:
    """A second one while the first is being seen to: nothing is freed that still runs."""
    with started(*image(tmp_path, say(b"ready\n") + CHATTER), "--level", "console", **PIPES) as process:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(30):
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        process.wait(PATIENCE)
        assert process.returncode in (130, -signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("levels", [[], ["--level", "console"], ["--level", "debug-console,port=0x3f8"]], ids=str)
@pytest.mark.parametrize("number", [signal.SIGINT, None], ids=["Ctrl-C", "timeout"])
def test_while_output_blocks(tmp_path: Path, levels: list[str], number: signal.Signals | None) -> None:
    """The guest writes to a pipe that is full and that nobody reads."""
    ours, theirs = os.pipe()
    size = fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    limit = ["--timeout", 1] if number is None else []
    with started(*image(tmp_path, CHATTER), *levels, *limit, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        while int.from_bytes(fcntl.ioctl(ours, termios.FIONREAD, bytes(4)), "little") < size:
            time.sleep(0.01)
        if number is not None:
            time.sleep(0.1)
            interrupt(process, number)
        assert process.wait(PATIENCE) == (124 if number is None else 130)
        assert process.stderr.read().splitlines()[1:] == [b"nestvmm: nobody took 1 bytes of the guest's output"]
    os.close(ours)


def test_ctrl_c_on_a_terminal_restores_it(tmp_path: Path) -> None:
    """The key itself, and the terminal's own line discipline."""
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        settings = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE, "wrapper": CONTROLLING}
        with started(*image(tmp_path, say(b"ready>") + LOOP), **settings) as process:
            read_until(ours, b"ready>")
            assert termios.tcgetattr(theirs) != before
            os.write(ours, b"\x03")
            assert process.wait(PATIENCE) == 130
            assert process.stderr.read() == b"nestvmm: ended by SIGINT\n"
        assert termios.tcgetattr(theirs) == before


def test_kill_restores_the_terminal(tmp_path: Path) -> None:
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        settings = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE, "wrapper": CONTROLLING}
        with started(*image(tmp_path, say(b"ready>") + LOOP), **settings) as process:
            read_until(ours, b"ready>")
            interrupt(process, signal.SIGTERM)
            assert process.returncode == 143
        assert termios.tcgetattr(theirs) == before


def test_an_interrupted_run_is_accounted(tmp_path: Path) -> None:
    account, trace = tmp_path / "account.json", tmp_path / "trace.jsonl"
    code = image(tmp_path, say(b"ready\n") + LOOP)
    with started(*code, "--stats", "--json", account, "--trace", trace, **PIPES) as process:
        assert process.stdout.readline() == b"ready\n"
        interrupt(process)
        assert process.returncode == 130
        assert b"UART" in process.stderr.read()
    found = json.loads(account.read_text())
    assert (found["status"], found["message"], found["exits"]) == (130, "ended by SIGINT", 6)
    assert len(trace.read_text().splitlines()) == 6


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """As `nestvmm run ... | head -1` does."""
    with started(*image(tmp_path, say(b"first\n") + CHATTER), **PIPES) as process:
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.wait(PATIENCE)
        message = process.stderr.read()
    assert process.returncode == 141
    assert message.startswith(b"nestvmm: nobody reads the guest's output any more\n")


def test_in_a_shells_pipeline(tmp_path: Path) -> None:
    command = '"$@" 2>"$0" | head -1; echo ${PIPESTATUS[0]}'
    code = [str(argument) for argument in image(tmp_path, say(b"first\n") + CHATTER)]
    shell = subprocess.run(
        ("bash", "-c", command, tmp_path / "err", *NESTVMM, *code),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(str(tmp_path)),
        timeout=PATIENCE,
        check=True,
    )
    assert shell.stdout == b"first\n141\n"


@pytest.mark.parametrize("arguments", [["--json", "-"], ["--stats"]], ids=str)
def test_our_own_output_into_a_closed_pipe(tmp_path: Path, arguments: list[str]) -> None:
    """Whether only standard output's reader is gone or standard error's too."""
    ours, theirs = os.pipe()
    os.close(ours)
    for stderr in theirs, subprocess.PIPE:
        with started(*image(tmp_path, LOOP), "--timeout", 0.2, *arguments, stdout=theirs, stderr=stderr) as process:
            assert process.wait(PATIENCE) == 141
            assert process.stderr is None or b"Traceback" not in process.stderr.read()
    os.close(theirs)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams(tmp_path: Path, closed: str) -> None:
    """They are as good as /dev/null; what else we open must not get their numbers."""
    trace, account = tmp_path / "trace.jsonl", tmp_path / "account.json"
    code = image(tmp_path, say(b"out") + leave(5))
    wrapper = ("sh", "-c", f'exec "$@" {closed}', "sh")
    for options in ["--trace", trace], ["--json", account], ["--json", "-"], ["--dry-run"], ["--stats"]:
        ended = nestvmm(*code, *options, wrapper=wrapper)
        assert ended.status == (0 if options == ["--dry-run"] else 5), ended
        assert "Traceback" not in ended.err
        assert ended.out in (b"out", b"") or options == ["--json", "-"]
    assert [json.loads(line)["reason"] for line in trace.read_text().splitlines()] == ["io"] * 4
    assert json.loads(account.read_text())["status"] == 5


def test_output_that_a_full_disk_does_not_take(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with started(*image(tmp_path, say(b"abc") + leave(0)), stdout=full, stderr=subprocess.PIPE) as process:
        os.close(full)
        assert process.stderr.read() == b"nestvmm: nobody took 3 bytes of the guest's output\n"
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("option", ["--trace", "--json"])
def test_a_full_disk_is_one_error(tmp_path: Path, option: str) -> None:
    ended = nestvmm(*image(tmp_path, leave(0)), option, "/dev/full")
    assert "No space left on device" in ended.failed(3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_benchmark_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Neither the guests that it starts, nor its files."""
    guest("multiboot")
    files = tmp_path / "files"
    files.mkdir()
    # an exception at any moment may leave a file for Python to close, of which it warns whoever asks for warnings
    options = {"env": {**environment(str(files)), "PYTHONWARNINGS": "ignore"}, **PIPES}
    said = f"nestvmm: ended by {number.name}\n".encode()
    with started("bench", "--case", "startup", "--runs", 10000, **options) as process:
        while not any(path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")):
            assert process.poll() is None
        interrupt(process, number)
        assert (process.returncode, process.stderr.read()) == (128 + number, said)
    with started("bench", "--case", "parts", "--runs", 10000, **options) as process:
        while not any(files.glob("*/trace.jsonl")):
            assert process.poll() is None
        interrupt(process, number)
        assert (process.returncode, process.stderr.read()) == (128 + number, said)
    assert list(files.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    ["--help", "run --help", "features", "reasons", "reasons hlt", "doctor", "bench --list", "bench --case published"],
)
def test_a_pipe_that_nobody_reads(words: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with started(*words.split(), stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        assert (process.wait(PATIENCE), process.stderr.read()) == (141, b"")
