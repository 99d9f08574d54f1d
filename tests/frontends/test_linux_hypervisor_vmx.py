"""Debian's stock kernel at level 1 loads kvm_intel on VMX by software, and a program there runs a VM: level 2."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import guest

from nestvmm.lab import VmxLab
from nestvmm.lab.initramfs import busybox_initramfs, executable
from nestvmm.lab.kernel import find_kernel
from nestvmm.lab.modules import module_nodes

pytestmark = [pytest.mark.vmx_lab, pytest.mark.prove]

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
TIMEOUT = 600
# the lab's clock, which nothing at level 1 tells the kernel
CLOCK = "tsc_early_khz=50000 lpj=200000"


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = module_nodes(find_kernel(), ["kvm-intel"], "modules")
    path = tmp_path_factory.mktemp("linux") / "initrd.gz"
    path.write_bytes(busybox_initramfs(INIT, {**entries, "vm_maker": executable(guest("vm_maker").read_bytes())}))
    return path


@pytest.fixture(scope="module")
def lab(initrd: Path) -> Iterator[VmxLab]:
    with VmxLab(memory=1536, project=ROOT, files=[initrd]) as lab:
        yield lab


def test_its_kvm_runs_a_guest(lab: VmxLab, initrd: Path) -> None:
    append = f"console=ttyS0 quiet panic=-1 mitigations=off nokaslr init_on_alloc=0 cryptomgr.notests {CLOCK}"
    command = [sys.executable, "-c", "from nestvmm.cli import main; main()", "run", str(lab.kernel), "-i", str(initrd)]
    command += ["-a", append, "-m", "256", "--engine", "vmx", "--timeout", str(TIMEOUT)]
    result = lab.run(command, cwd=ROOT, timeout=2 * TIMEOUT)
    lines = [line.strip() for line in result.stdout.decode(errors="replace").splitlines()]
    assert "status 0" in lines, result.stdout[-2000:].decode(errors="replace")
    said = next(line for line in lines if line.startswith("port "))
    assert re.fullmatch(r"port 42 37 mmio 1234567 feedbeef cpuid abcd1234 ticks 5 cycles [0-9]+", said)
