"""Debian's stock kernel at level 1 loads kvm_intel on VMX by software, and a program there runs a VM: level 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from linux_hypervisor import ROOT, check_that_its_kvm_runs_a_guest, write_initrd

from nestvmm.lab import VmxLab

# the lab's clock, which nothing at level 1 tells the kernel
CLOCK = ("tsc_early_khz=50000", "lpj=200000")
QUICK = ("nokaslr", "init_on_alloc=0", "cryptomgr.notests")


@pytest.mark.vmx_lab
@pytest.mark.prove
def test_its_kvm_runs_a_guest(tmp_path: Path) -> None:
    initrd = write_initrd(tmp_path, "kvm-intel")
    with VmxLab(memory=1536, project=ROOT, files=[initrd]) as lab:
        check_that_its_kvm_runs_a_guest(lab, "vmx", initrd, [*QUICK, *CLOCK], memory=256, timeout=600)
