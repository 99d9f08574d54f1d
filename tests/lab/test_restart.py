"""The labs' watchdog, with a stand-in for QEMU or Bochs that fails as it is told to."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import PATIENCE

from nestvmm.lab import Dialogue, LabError, LabTimeoutError, SvmLab, VmxLab, machine, svm, vmx
from nestvmm.lab.carry import Luggage
from nestvmm.lab.emulated import EmulatedLab
from nestvmm.lab.kernel import Kernel

ASSERTION = "emulator: Assertion failed."
STALL = "rcu: INFO: rcu_preempt self-detected"

StandIn = Callable[[str], None]
Boots = Callable[[], list[int]]
MakeLab = Callable[..., EmulatedLab]


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture(params=["SVM", "VMX"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def emulator(kind: str) -> str:
    return {"SVM": "QEMU", "VMX": "Bochs"}[kind]


@pytest.fixture
def make_lab(kind: str, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> MakeLab:
    """A lab on the stand-in."""
    nothing = Path("/dev/null")
    kernel = Kernel(nothing, "", nothing)
    monkeypatch.setattr(svm, "prepare", lambda: svm.Parts(kernel, nothing, nothing))
    monkeypatch.setattr(vmx, "prepare", lambda: vmx.Parts(kernel, nothing, Luggage(), nothing))
    monkeypatch.setattr(vmx, "project_initramfs", lambda *arguments: (b"", []))
    monkeypatch.setattr(vmx, "write_disk", lambda *arguments: None)

    def make(script: str, boot_timeout: float = PATIENCE) -> EmulatedLab:
        """boot_timeout: of the first start; the next one has all the time that it needs"""

        def report(message: str) -> None:
            messages.append(message)
            made._boot_timeout = PATIENCE

        stand_in(script)
        made = (SvmLab if kind == "SVM" else VmxLab)(boot_timeout=boot_timeout, report=report)
        return made

    return make


def silence(messages: list[str], kind: str, last_words: str) -> int:
    """The seconds that the one message tells of."""
    (message,) = messages
    pattern = rf"the {kind} lab failed \(it did not answer for (\d+) s: {last_words}.*\); starting it again"
    found = re.fullmatch(pattern, message)
    assert found, message
    return int(found[1])


def test_a_good_boot_is_the_only_one(make_lab: MakeLab, boots: Boots, messages: list[str]) -> None:
    with make_lab("serve()") as lab:
        assert lab.run(["cat"], stdin=b"hi").stdout == b"hi"
    assert (len(boots()), lab.restarts, messages) == (1, 0, [])


def test_an_abort_while_booting_starts_it_again_once_and_says_so(
    make_lab: MakeLab, boots: Boots, messages: list[str], kind: str, emulator: str
) -> None:
    with make_lab("abort() if boot == 1 else serve()") as lab:
        assert lab.run(["echo", "up"]).stdout == b"up\n"
    assert (len(boots()), lab.restarts) == (2, 1)
    assert messages == [f"the {kind} lab failed ({emulator} ended with status -6: {ASSERTION}); starting it again"]


def test_two_aborts_are_an_error(make_lab: MakeLab, boots: Boots, emulator: str) -> None:
    with pytest.raises(LabError, match=rf"failed twice: {emulator} ended with status -6: {ASSERTION}"):
        make_lab("abort()").__enter__()
    assert len(boots()) == 2


def test_a_boot_that_hangs_is_given_up(make_lab: MakeLab, boots: Boots, messages: list[str], kind: str) -> None:
    with make_lab("(connect(), hang()) if boot == 1 else serve()", boot_timeout=2) as lab:
        assert lab.run(["true"]).status == 0
    assert len(messages) == 1
    assert 2 <= silence(messages, kind, STALL) < PATIENCE
    assert not Path("/proc", str(boots()[0])).exists()


def test_an_emulator_that_does_not_open_the_channel_is_given_up(
    make_lab: MakeLab, boots: Boots, messages: list[str], kind: str
) -> None:
    with make_lab("hang('no channel') if boot == 1 else serve()", boot_timeout=2) as lab:
        assert lab.run(["true"]).status == 0
    assert 2 <= silence(messages, kind, "no channel") < PATIENCE
    assert not Path("/proc", str(boots()[0])).exists()


def test_a_kernel_panic_is_not_waited_out(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch, messages: list[str], kind: str
) -> None:
    monkeypatch.setattr(machine, "DEAD_SILENCE_LIMIT", 0.5)
    panic = "Kernel panic - not syncing: Attempted to kill init!"
    with make_lab(f"hang({panic!r}) if boot == 1 else serve()", boot_timeout=PATIENCE):
        pass
    assert 1 <= silence(messages, kind, panic) < PATIENCE


def test_a_command_whose_lab_dies_is_run_again_from_its_start(make_lab: MakeLab, messages: list[str]) -> None:
    with make_lab("serve_and(abort) if boot == 1 else serve()") as lab:
        assert lab.run("read line; echo $line; sleep 2", stdin=b"once\n").stdout == b"once\n"
        assert lab.restarts == 1
    assert len(messages) == 1


def test_a_dialogue_begins_anew_with_its_command(make_lab: MakeLab, messages: list[str]) -> None:
    exchanges = [(b"name? ", b"nested\n"), (b"sure? ", b"yes\n"), (b"never said", b"never typed\n")]
    ask = "printf 'name? '; read a; printf 'sure? '; read b; echo $a $b"
    with Dialogue(exchanges) as dialogue, make_lab("serve_and(abort) if boot == 1 else serve()") as lab:
        assert lab.run(f"{ask}; sleep 2", stdin=dialogue, timeout=60).status == 0
    assert dialogue.stdout == b"name? sure? nested yes\n"
    assert len(messages) == 1


def test_a_second_death_is_an_error(make_lab: MakeLab, boots: Boots, emulator: str) -> None:
    with make_lab("serve_and(abort)") as lab:
        with pytest.raises(LabError, match=f"failed again: {emulator} ended with status -6"):
            lab.run("exec sleep 5")
        with pytest.raises(LabError, match="not running"):
            lab.run(["true"])
    assert len(boots()) == 2


def test_a_lab_that_falls_silent_under_a_command_is_started_again(
    make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str], kind: str
) -> None:
    monkeypatch.setattr(machine, "STALLED_SILENCE_LIMIT", 3.0)
    # the agent itself is stopped, as all of a hung machine is, while its emulator complains and lives on
    with make_lab("serve_and(hang) if boot == 1 else serve()") as lab:
        result = lab.run("[ -e agent ] || { echo $PPID >agent; kill -STOP $PPID; }; echo done", cwd=tmp_path)
    os.kill(int((tmp_path / "agent").read_text()), signal.SIGKILL)  # which no real emulator would leave behind
    assert result.stdout == b"done\n"
    assert 3 <= silence(messages, kind, STALL) < machine.SILENCE_LIMIT


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
    deadline = time.monotonic() + PATIENCE
    while Path("/proc", str(boots()[0]), "exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path("/proc", str(boots()[0]), "exe").exists()


def test_a_machine_that_spins_while_idle_sleeps_between_commands(make_lab: MakeLab, boots: Boots, kind: str) -> None:
    def state() -> str:
        return Path("/proc", str(boots()[0]), "stat").read_text().rpartition(") ")[2][0]

    with make_lab("serve()") as lab:
        assert lab.run(["true"]).status == 0
        deadline = time.monotonic() + PATIENCE
        while state() == "R" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state() == {"SVM": "S", "VMX": "T"}[kind]
        assert lab.run(["true"]).status == 0
