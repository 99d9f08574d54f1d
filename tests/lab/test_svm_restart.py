"""The SVM lab's watchdog, with a stand-in for QEMU that fails as it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nestvmm.lab import LabError, LabTimeoutError, SvmLab, machine, svm
from nestvmm.lab.kernel import Kernel

ASSERTION = "qemu-system-x86_64: ../accel/tcg/tcg-accel-ops.c:79: tcg_handle_interrupt: Assertion failed."

StandIn = Callable[[str], None]
Boots = Callable[[], list[int]]
MakeLab = Callable[[str], SvmLab]


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def make_lab(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> MakeLab:
    """A lab on the stand-in."""

    def make(script: str) -> SvmLab:
        stand_in(script)
        nothing = Path("/dev/null")
        monkeypatch.setattr(svm, "prepare", lambda: svm.Parts(Kernel(nothing, "", nothing), nothing, nothing))
        return SvmLab(boot_timeout=2, report=messages.append)

    return make


def test_a_good_boot_is_the_only_one(make_lab: MakeLab, boots: Boots, messages: list[str]) -> None:
    with make_lab("serve()") as lab:
        assert lab.run(["cat"], stdin=b"hi").stdout == b"hi"
    assert (len(boots()), lab.restarts, messages) == (1, 0, [])


def test_an_abort_while_booting_starts_it_again_once_and_says_so(
    make_lab: MakeLab, boots: Boots, messages: list[str]
) -> None:
    with make_lab("abort() if boot == 1 else serve()") as lab:
        assert lab.run(["echo", "up"]).stdout == b"up\n"
    assert (len(boots()), lab.restarts) == (2, 1)
    assert messages == [f"the SVM lab failed (QEMU ended with status -6: {ASSERTION}); starting it again"]


def test_two_aborts_are_an_error(make_lab: MakeLab, boots: Boots) -> None:
    with pytest.raises(LabError, match=r"failed twice: QEMU ended with status -6: .*tcg_handle_interrupt"):
        make_lab("abort()").__enter__()
    assert len(boots()) == 2


def test_a_boot_that_hangs_is_given_up(make_lab: MakeLab, boots: Boots, messages: list[str]) -> None:
    with make_lab("hang() if boot == 1 else serve()") as lab:
        assert lab.run(["true"]).status == 0
    assert len(messages) == 1
    assert messages[0].startswith("the SVM lab failed (it did not answer for 2 s: rcu: INFO: rcu_preempt self-detected")
    assert not Path("/proc", str(boots()[0])).exists()


def test_a_command_whose_lab_dies_is_run_again_from_its_start(make_lab: MakeLab, messages: list[str]) -> None:
    with make_lab("serve_and(abort) if boot == 1 else serve()") as lab:
        assert lab.run("read line; echo $line; sleep 2", stdin=b"once\n").stdout == b"once\n"
        assert lab.restarts == 1
    assert len(messages) == 1


def test_a_second_death_is_an_error(make_lab: MakeLab, boots: Boots) -> None:
    with make_lab("serve_and(abort)") as lab:
        with pytest.raises(LabError, match="failed again: QEMU ended with status -6"):
            lab.run("exec sleep 5")
        with pytest.raises(LabError, match="not running"):
            lab.run(["true"])
    assert len(boots()) == 2


def test_a_lab_that_falls_silent_under_a_command_is_started_again(
    make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    monkeypatch.setattr(machine, "STALLED_SILENCE_LIMIT", 3.0)
    # the agent itself is stopped, as all of a hung machine is, while its QEMU complains and lives on
    with make_lab("serve_and(hang) if boot == 1 else serve()") as lab:
        result = lab.run("[ -e agent ] || { echo $PPID >agent; kill -STOP $PPID; }; echo done", cwd=tmp_path)
    os.kill(int((tmp_path / "agent").read_text()), signal.SIGKILL)  # which no real QEMU would leave behind
    assert result.stdout == b"done\n"
    assert messages[0].startswith("the SVM lab failed (it did not answer for 4 s: rcu: INFO: rcu_preempt self-detected")


def test_input_that_is_used_up_cannot_be_given_again(make_lab: MakeLab, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"once\n")
    with (tmp_path / "input").open("rb") as source, make_lab("serve_and(abort)") as lab:
        with pytest.raises(LabError, match="after /bin/sh had read its input"):
            lab.run("cat; sleep 60", stdin=source.fileno())
        with pytest.raises(LabError, match="not running"):
            lab.run(["true"])


def test_a_time_limit_is_no_failure_of_the_lab(make_lab: MakeLab, boots: Boots) -> None:
    with make_lab("serve()") as lab:
        with pytest.raises(LabTimeoutError):
            lab.run(["sleep", "60"], timeout=0.2)
        assert lab.run(["echo", "up"]).stdout == b"up\n"
    assert len(boots()) == 1


def test_nothing_is_left_when_the_caller_fails(make_lab: MakeLab, boots: Boots) -> None:
    with pytest.raises(ZeroDivisionError), make_lab("serve()"):
        raise ZeroDivisionError
    assert not Path("/proc", str(boots()[0])).exists()


def test_the_lab_ends_with_the_process_that_started_it(make_lab: MakeLab, boots: Boots) -> None:
    lab = make_lab("hang()")
    child = os.fork()
    if child == 0:
        try:
            lab.__enter__()
        finally:
            os._exit(1)
    while not boots():
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 5
    while Path("/proc", str(boots()[0]), "exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path("/proc", str(boots()[0]), "exe").exists()
