"""Debian's stock kernel at level 1 loads kvm_amd on SVM by software, and a program there runs a VM: level 2.

The lab counts instructions here: on its usual clock a switch takes so long that level 1's timer comes again before
level 2 has executed anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import guest

from nestvmm.lab import SvmLab
from nestvmm.lab.initramfs import busybox_initramfs, executable
from nestvmm.lab.kernel import find_kernel
from nestvmm.lab.modules import module_nodes

pytestmark = pytest.mark.svm_lab

ROOT = Path(__file__).parents[2]
INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod $module; done
/vm_maker
echo "status $?"
$bb reboot -f
"""
TIMEOUT = 300


@pytest.fixture(scope="module")
def lab() -> Iterator[SvmLab]:
    with SvmLab(icount=True) as lab:
        yield lab


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = module_nodes(find_kernel(), ["kvm-amd"], "modules")
    program = guest("vm_maker").read_bytes()
    path = tmp_path_factory.mktemp("linux") / "initrd.gz"
    path.write_bytes(busybox_initramfs(INIT, {**entries, "vm_maker": executable(program)}))
    return path


def test_its_kvm_runs_a_guest(lab: SvmLab, initrd: Path) -> None:
    # nothing there tells the kernel how fast its TSC is, and without that KVM runs no guest
    append = "console=ttyS0 quiet panic=-1 mitigations=off tsc_early_khz=1000000"
    command = [sys.executable, "-c", "from nestvmm.cli import main; main()", "run", str(lab.kernel), "-i", str(initrd)]
    command += ["-a", append, "-m", "512", "--engine", "svm", "--timeout", str(TIMEOUT)]
    result = lab.run(command, cwd=ROOT, timeout=2 * TIMEOUT)
    lines = [line.strip() for line in result.stdout.decode(errors="replace").splitlines()]
    assert "status 0" in lines, result.stdout[-2000:].decode(errors="replace")
    said = next(line for line in lines if line.startswith("port "))
    assert re.fullmatch(r"port 42 37 mmio 1234567 feedbeef cpuid abcd1234 ticks 5 cycles [0-9]+", said)
