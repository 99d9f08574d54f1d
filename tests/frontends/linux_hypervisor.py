"""Debian's stock kernel at level 1 with vm_maker, which runs a VM by its KVM: level 2."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from command import guest

from nestvmm.lab import Lab
from nestvmm.lab.initramfs import busybox_initramfs, executable
from nestvmm.lab.kernel import find_kernel
from nestvmm.lab.modules import module_nodes

__all__ = ["ROOT", "check_that_its_kvm_runs_a_guest", "write_initrd"]

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


def write_initrd(folder: Path, module: str) -> Path:
    """A user space for the kernel that loads kvm-amd or kvm-intel."""
    entries = module_nodes(find_kernel(), [module], "modules")
    path = folder / "initrd.gz"
    path.write_bytes(busybox_initramfs(INIT, {**entries, "vm_maker": executable(guest("vm_maker").read_bytes())}))
    return path


def check_that_its_kvm_runs_a_guest(
    lab: Lab, engine: str, initrd: Path, parameters: Sequence[str], *, memory: int, timeout: int
) -> None:
    """parameters: of the kernel's, beyond its console. memory: level 1's, in MiB. timeout: seconds."""
    append = " ".join(["console=ttyS0 quiet panic=-1 mitigations=off", *parameters])
    command = [sys.executable, "-c", "from nestvmm.cli import main; main()", "run", str(lab.kernel), "-i", str(initrd)]
    command += ["-a", append, "-m", str(memory), "--engine", engine, "--timeout", str(timeout)]
    result = lab.run(command, cwd=ROOT, timeout=2 * timeout)
    lines = [line.strip() for line in result.stdout.decode(errors="replace").splitlines()]
    assert "status 0" in lines, result.stdout[-2000:].decode(errors="replace")
    said = next(line for line in lines if line.startswith("port "))
    assert re.fullmatch(r"port 42 37 mmio 1234567 feedbeef cpuid abcd1234 ticks 5 cycles [0-9]+", said)
