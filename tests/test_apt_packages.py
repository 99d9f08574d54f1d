"""The package script, with dpkg-query, apt-get, apt-cache and id replaced by programs that record their calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "apt-packages"
LAB = ["qemu-system-x86", "bochs", "bochs-term", "bochsbios", "vgabios", "busybox-static", "chromium", "nodejs", "kmod"]
INSTALL = "install -y -q --no-install-recommends"


class FakeDebian:
    """A folder of programs at the head of PATH, and the calls of apt-get that they recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.calls.touch()

    def program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def setup(self, uid: int = 0, missing: str = "", lists: bool = True, failures: int = 0) -> None:
        """Let these packages be missing; lists: apt knows packages; failures: how many first installs fail."""
        self.program("id", f"echo {uid}")
        self.program("dpkg-query", f'case " {missing} " in *" $4 "*) exit 1;; esac\nprintf installed')
        self.program("apt-cache", "exit 0" if lists else "exit 100")
        installs = f"$(grep -c ^install {self.calls})"
        self.program(
            "apt-get", f'echo "$*" >>{self.calls}\n[ "$1" != install ] || [ {installs} -gt {failures} ] || exit 100'
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}:{os.environ['PATH']}"
        return subprocess.run(
            [SCRIPT, *arguments], env={"PATH": path}, capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    def apt_calls(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def debian(tmp_path: Path) -> FakeDebian:
    return FakeDebian(tmp_path)


def test_nothing_is_done_when_all_are_installed(debian: FakeDebian) -> None:
    debian.setup(uid=1000)
    ended = debian.run("build", "lab")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert debian.apt_calls() == []


def test_only_what_is_missing_is_installed(debian: FakeDebian) -> None:
    debian.setup(missing="gcc kmod")
    ended = debian.run("build", "lab")
    assert ended.returncode == 0
    assert debian.apt_calls() == [f"{INSTALL} gcc kmod"]
    assert "  gcc              compiles the C extension and the guests\n" in ended.stderr


def test_user_who_is_not_root_is_told_the_command(debian: FakeDebian) -> None:
    debian.setup(uid=1000, missing="kmod gcc")
    ended = debian.run("build", "lab")
    assert ended.returncode == 1
    command = "  sudo apt-get update && sudo apt-get install -y --no-install-recommends gcc kmod"
    assert command in ended.stderr.splitlines()
    assert debian.apt_calls() == []


def test_new_machine_without_lists_gets_them_first(debian: FakeDebian) -> None:
    debian.setup(missing="kmod", lists=False)
    assert debian.run("lab").returncode == 0
    assert debian.apt_calls() == ["update -q", f"{INSTALL} kmod"]


def test_labs_kernel_needs_lists_though_all_is_installed(debian: FakeDebian) -> None:
    debian.setup(lists=False)
    assert debian.run("build").returncode == 0
    assert debian.apt_calls() == []
    assert debian.run("lab").returncode == 0
    assert debian.apt_calls() == ["update -q"]


def test_old_lists_are_updated_once(debian: FakeDebian) -> None:
    debian.setup(missing="kmod", failures=1)
    assert debian.run("lab").returncode == 0
    assert debian.apt_calls() == [f"{INSTALL} kmod", "update -q", f"{INSTALL} kmod"]


def test_failing_apt_fails_the_script(debian: FakeDebian) -> None:
    debian.setup(missing="kmod", failures=2)
    assert debian.run("lab").returncode == 100


def test_list_prints_the_packages_of_a_set(debian: FakeDebian) -> None:
    debian.setup(missing="kmod")
    ended = debian.run("--list", "lab")
    assert (ended.returncode, ended.stdout.split()) == (0, LAB)


def test_system_without_apt_is_told_what_must_be_there(tmp_path: Path) -> None:
    for name in ("bash", "cat"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    ended = subprocess.run(
        [SCRIPT, "lab"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ended.returncode == 0
    assert ended.stderr.endswith(f"must be there: {' '.join(LAB)}\n")


@pytest.mark.parametrize("arguments", [[], ["--list"], ["kitchen"]])
def test_wrong_use_is_refused(debian: FakeDebian, arguments: list[str]) -> None:
    debian.setup()
    assert debian.run(*arguments).returncode == 2
