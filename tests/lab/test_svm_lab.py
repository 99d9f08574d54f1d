"""The SVM lab itself: what it is, and that commands run there as they do here."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from nestvmm.lab import Lab, LabResult, LabTimeoutError, LocalLab, SvmLab, kvm_amd_nests

pytestmark = pytest.mark.svm_lab

emulated = pytest.mark.skipif(kvm_amd_nests(), reason="kvm_amd nests on this machine: it needs no emulated one")

MEGABYTE = bytes(range(256)) * 4096

KVM_HAS_SVM = """
import fcntl, struct
KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_SUPPORTED_CPUID = 0xAE00, 0xAE01, 0xC008AE05
with open("/dev/kvm", "r+b", buffering=0) as kvm:
    cpuid = bytearray(struct.pack("II", 200, 0) + bytes(40 * 200))
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
    entries = [struct.unpack_from("7I", cpuid, 8 + 40 * n) for n in range(struct.unpack_from("I", cpuid)[0])]
    ecx = next(entry[5] for entry in entries if entry[0] == 0x80000001)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    print(fcntl.ioctl(kvm, KVM_GET_API_VERSION), vm > 0, ecx >> 2 & 1)
"""


def qemu_children() -> list[int]:
    """The QEMU processes that this process started."""
    mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in mine if b"qemu" in Path("/proc", pid, "cmdline").read_bytes()]


def test_kvm_amd_nests_there(svm_lab: Lab) -> None:
    assert svm_lab.run(["cat", "/sys/module/kvm_amd/parameters/nested"]).stdout in (b"1\n", b"Y\n")


def test_kvm_offers_svm_to_guests_there(svm_lab: Lab) -> None:
    assert svm_lab.run([sys.executable, "-c", KVM_HAS_SVM]) == LabResult(0, b"12 True 1\n", b"")


def test_guests_can_have_huge_pages_there(svm_lab: Lab) -> None:
    policy = svm_lab.run(["cat", "/sys/kernel/mm/transparent_hugepage/enabled"]).stdout
    assert b"[always]" in policy or b"[madvise]" in policy


def test_a_megabyte_goes_there_and_comes_back(svm_lab: Lab) -> None:
    assert svm_lab.run(["cat"], stdin=MEGABYTE) == LabResult(0, MEGABYTE, b"")


def test_streams_statuses_and_directory(svm_lab: Lab, tmp_path: Path) -> None:
    assert svm_lab.run("pwd; echo err >&2; exit 7", cwd=tmp_path) == LabResult(7, f"{tmp_path}\n".encode(), b"err\n")
    assert svm_lab.run(["nestvmm-no-such-program"]).status == 127
    assert svm_lab.run("kill -TERM $$").status == 128 + signal.SIGTERM


def test_this_python_with_its_packages_runs_there(svm_lab: Lab) -> None:
    script = "import sys, nestvmm; print(sys.executable, nestvmm.__file__)"
    import nestvmm

    result = svm_lab.run([sys.executable, "-c", script], env={"PYTHONPATH": os.pathsep.join(sys.path)})
    assert result.stdout.decode() == f"{sys.executable} {nestvmm.__file__}\n"


def test_timeout_kills_everything_and_leaves_the_lab_usable(svm_lab: Lab) -> None:
    with pytest.raises(LabTimeoutError) as caught:
        svm_lab.run("setsid sh -c 'echo so far; exec sleep 61' & sleep 61", timeout=5)
    assert caught.value.stdout == b"so far\n"
    if isinstance(svm_lab, SvmLab):  # LocalLab has no cgroup of its own, so setsid escapes it
        assert svm_lab.run("pgrep -x sleep || echo none").stdout == b"none\n"


def test_the_kernel_is_there_by_the_same_path(svm_lab: Lab) -> None:
    magic = svm_lab.run(["dd", f"if={svm_lab.kernel}", "bs=1", "skip=514", "count=4", "status=none"]).stdout
    assert magic == b"HdrS"
    assert svm_lab.kernel.read_bytes()[514:518] == magic


def test_the_fixture_is_local_where_kvm_amd_nests(svm_lab: Lab) -> None:
    assert isinstance(svm_lab, LocalLab if kvm_amd_nests() else SvmLab)


@emulated
def test_writes_vanish_but_in_the_share_and_no_process_stays(tmp_path: Path) -> None:
    share, elsewhere = tmp_path / "a,b", tmp_path / "elsewhere"
    share.mkdir()
    elsewhere.mkdir()
    before = qemu_children()
    with SvmLab(share=share) as lab:
        assert len(qemu_children()) == len(before) + 1
        script = "echo kept >/mnt/share/file; echo lost >file; cat file /mnt/share/file"
        assert lab.run(script, cwd=elsewhere) == LabResult(0, b"lost\nkept\n", b"")
    assert qemu_children() == before
    assert (share / "file").read_text() == "kept\n"
    assert list(elsewhere.iterdir()) == []


@emulated
def test_under_icount_the_clock_counts_instructions() -> None:
    # the same loop takes the same number of cycles within 1 %, whatever else this machine does
    script = "import time; t = time.perf_counter_ns; a = t(); [None for _ in range(10**6)]; print(t() - a)"
    with SvmLab(icount=True) as lab:
        took = [int(lab.run([sys.executable, "-ISc", script]).stdout) for _ in range(3)]
    assert max(took) / min(took) < 1.05
