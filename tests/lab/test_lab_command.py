"""`nestvmm lab` as a process, over a stand-in for QEMU or Bochs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import PATIENCE

from nestvmm.lab import kvm_amd_nests, kvm_intel_nests

Command = Callable[..., list[str]]
Run = Callable[..., tuple[int, bytes, bytes]]

SVM = pytest.param(
    "svm", marks=[pytest.mark.svm_lab, pytest.mark.skipif(kvm_amd_nests(), reason="kvm_amd nests on this machine")]
)
VMX = pytest.param(
    "vmx", marks=[pytest.mark.vmx_lab, pytest.mark.skipif(kvm_intel_nests(), reason="kvm_intel nests on this machine")]
)
PROGRAMS = {"svm": ("qemu-system-x86_64", "qemu-system-x86"), "vmx": ("bochs", "bochs")}

PROGRAM = """
import sys
from nestvmm.cli import main
main(["lab", *sys.argv[1:]])
"""


@pytest.fixture(params=[SVM, VMX])
def lab(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def command(lab: str, stand_in: Callable[[str], None]) -> Command:
    """The command line of `nestvmm lab` with some words behind it."""
    stand_in("serve()")
    return lambda *words: [sys.executable, "-c", PROGRAM, lab, *words]


@pytest.fixture
def run(command: Command) -> Run:
    """Status, stdout and stderr of `nestvmm lab` with some words behind it."""

    def run(*words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        done = subprocess.run(command(*words), input=stdin, capture_output=True, check=False, timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr

    return run


def test_output_input_and_status_are_passed_on(run: Run) -> None:
    assert run("--", "sh", "-c", "cat; echo err >&2; exit 5", stdin=b"in\0put") == (5, b"in\0put", b"err\n")


def test_the_commands_own_options_are_its_own(run: Run) -> None:
    assert run("--", "printf", "%s", "--timeout") == (0, b"--timeout", b"")


def test_a_timeout_is_status_124(run: Run) -> None:
    assert run("--timeout", "0.5", "--", "sleep", "60") == (
        124,
        b"",
        b"nestvmm: sleep: killed after 0.5 s in the lab\n",
    )


@pytest.mark.parametrize(
    ("lab", "words"),
    [
        pytest.param("svm", ("--memory", "4X", "--", "true"), marks=SVM.marks),
        pytest.param("svm", ("--cpus", "0", "--", "true"), marks=SVM.marks),
        pytest.param("svm", ("--",), marks=SVM.marks),
        pytest.param("vmx", ("--memory", "4G", "--", "true"), marks=VMX.marks),
        pytest.param("vmx", ("--with", "/no/such", "--", "true"), marks=VMX.marks),
        pytest.param("vmx", ("--",), marks=VMX.marks),
    ],
    indirect=["lab"],
)
def test_a_wrong_command_line_is_status_2(run: Run, words: tuple[str, ...]) -> None:
    status, stdout, stderr = run(*words)
    assert (status, stdout) == (2, b"")
    assert stderr.startswith(b"nestvmm: ")
    assert stderr.count(b"\n") == 1


@pytest.mark.parametrize("lab", [SVM], indirect=True)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--memory", "511"), b"--memory 511: the SVM lab needs 512M or more\n"),
        (("--memory", "4X"), b"--memory: '4X' is no size"),
        (("--timeout", "nan"), b"'nan' is no positive number of seconds"),
    ],
)
def test_what_no_lab_can_have(run: Run, words: tuple[str, ...], message: bytes) -> None:
    status, _, stderr = run(*words, "--", "true")
    assert (status, stderr.count(b"\n")) == (2, 1)
    assert message in stderr


@pytest.mark.parametrize("lab", [SVM], indirect=True)
def test_icount_with_two_cpus_is_status_2(run: Run) -> None:
    status, _, stderr = run("--icount", "--cpus", "2", "--", "true")
    assert (status, stderr.count(b"\n")) == (2, 1)


def test_a_missing_program_is_one_line_and_status_3(
    run: Run, lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    program, package = PROGRAMS[lab]
    message = f"nestvmm: the lab needs {program}, which is not installed: apt-get install {package}\n"
    assert run("--", "true") == (3, b"", message.encode())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupt_leaves_nothing(
    command: Command, number: signal.Signals, status: int, boots: Callable[[], list[int]], tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    script = "echo $$; exec sleep 60"
    with subprocess.Popen(command("--", "sh", "-c", script), stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        sleeper = process.stdout.readline().decode().strip()
        process.send_signal(number)
        assert process.wait(PATIENCE) == status
    deadline = time.monotonic() + PATIENCE
    # killed, the stand-in cannot end its command, as a real machine's end does
    gone = [*boots(), sleeper] if number == signal.SIGINT else boots()
    left = {Path("/proc", str(pid), "exe") for pid in gone}
    while (left := {path for path in left if path.exists()}) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == set()
    assert list(scratch.iterdir()) == []
