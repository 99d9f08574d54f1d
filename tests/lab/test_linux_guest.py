"""Debian's stock kernel boots to a shell in a tower on kvm_amd, and commands typed on standard input are answered."""

import json
import sys
from pathlib import Path

import pytest

from nestvmm.lab import Dialogue, Lab
from nestvmm.lab.initramfs import busybox_initramfs

pytestmark = pytest.mark.svm_lab

ROOT = Path(__file__).parents[2]
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin 2>/dev/null
exec sh -i
"""
BOOT_TIMEOUT = 240
DIALOGUE = [(b"/ # ", b"echo $((6 * 7)) $(cut -c1-13 /proc/version)\n"), (b"/ # ", b"reboot -f\n")]


@pytest.fixture(scope="module")
def initrd(svm_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("linux") / "initrd.gz"
    path.write_bytes(busybox_initramfs(INIT))
    return path


def boot(lab: Lab, initrd: Path, *levels: str) -> dict[str, object]:
    """Boots the kernel above these hypervisors, with a dialogue at its console; gives the account."""
    command = [sys.executable, "-c", "from nestvmm.cli import main; main()", "run", str(lab.kernel), "-i", str(initrd)]
    command += ["-a", "console=ttyS0 quiet panic=-1 mitigations=off", "-m", "512", "--timeout", str(BOOT_TIMEOUT)]
    account = "/run/account.json"
    for level in levels:
        command += ["--level", level]
    with Dialogue(DIALOGUE) as console:
        result = lab.run([*command, "--json", account], stdin=console, cwd=ROOT, timeout=2 * BOOT_TIMEOUT)
    assert (result.status, console.stderr.decode()) == (
        0,
        "nestvmm: the guest reset the machine through its keyboard controller\n",
    )
    assert b"42 Linux version" in console.stdout
    loaded: dict[str, object] = json.loads(lab.run(["cat", account]).stdout)
    return loaded


def console_rows(account: dict[str, object]) -> list[tuple[int, str]]:
    rows = account["rows"]
    assert isinstance(rows, list)
    return [(row["level"], row["who"]) for row in rows if row["qualifier"] == "0x3f8-0x3ff"]


def test_boots_to_a_shell_at_level_1_on_the_console_of_l0(svm_lab: Lab, initrd: Path) -> None:
    account = boot(svm_lab, initrd)
    assert account["height"] == 1
    assert console_rows(account) == [(0, "UART")]


def test_boots_to_a_shell_at_level_3_above_two_hypervisors(svm_lab: Lab, initrd: Path) -> None:
    account = boot(svm_lab, initrd, "msr-policy,first=0x4e560000", "console")
    assert account["height"] == 3
    assert console_rows(account) == [(2, "Console")]
