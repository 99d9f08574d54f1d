"""Debian's stock kernel at level 1 loads kvm_amd on SVM by software, and a program there runs a VM: level 2.

The lab counts instructions here: on its usual clock a switch takes so long that level 1's timer comes again before
level 2 has executed anything.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from linux_hypervisor import check_that_its_kvm_runs_a_guest, write_initrd

from nestvmm.lab import SvmLab

# nothing there tells the kernel how fast its TSC is, and without that KVM runs no guest
CLOCK = "tsc_early_khz=1000000"


@pytest.mark.svm_lab
def test_its_kvm_runs_a_guest(tmp_path: Path) -> None:
    with SvmLab(icount=True) as lab:
        initrd = write_initrd(tmp_path, "kvm-amd")
        check_that_its_kvm_runs_a_guest(lab, "svm", initrd, [CLOCK], memory=512, timeout=300)
