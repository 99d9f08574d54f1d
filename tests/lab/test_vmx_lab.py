"""The VMX lab itself: what it is, and that commands run there as they do here."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

import nestvmm
from nestvmm.errors import HostError, UsageError
from nestvmm.lab import Lab, LabResult, LabTimeoutError, LocalLab, VmxLab, kvm_intel_nests

pytestmark = pytest.mark.vmx_lab

emulated = pytest.mark.skipif(kvm_intel_nests(), reason="kvm_intel nests on this machine: it needs no emulated one")

ROOT = Path(__file__).parents[2]
KILOBYTES = bytes(range(256)) * 64

# KVM's list of MSRs that tell of features, and what they say of VMX: IA32_VMX_BASIC and IA32_VMX_PROCBASED_CTLS2
# (Intel SDM vol. 3, appendix A.1 and A.3.3)
KVM_HAS_VMX = """
import fcntl, struct
KVM_CREATE_VM, KVM_GET_SUPPORTED_CPUID, KVM_GET_MSRS = 0xAE01, 0xC008AE05, 0xC008AE88
with open("/dev/kvm", "r+b", buffering=0) as kvm:
    cpuid = bytearray(struct.pack("II", 200, 0) + bytes(40 * 200))
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
    entries = [struct.unpack_from("7I", cpuid, 8 + 40 * n) for n in range(struct.unpack_from("I", cpuid)[0])]
    vmx = next(entry[5] for entry in entries if entry[0] == 1) >> 5 & 1
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    msrs = bytearray(struct.pack("II", 2, 0) + struct.pack("IIQ", 0x480, 0, 0) + struct.pack("IIQ", 0x48B, 0, 0))
    found = fcntl.ioctl(kvm, KVM_GET_MSRS, msrs)
    basic, controls = struct.unpack_from("8xQ8xQ", msrs, 8)
    print(vmx, vm > 0, found, basic >> 50 & 15, controls >> 33 & 1, controls >> 39 & 1)
"""


def bochs_children() -> list[int]:
    """The Bochs processes that this process started."""
    mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in mine if b"bochs" in Path("/proc", pid, "cmdline").read_bytes()]


def listening(*pids: int) -> set[str]:
    """The sockets of these processes that wait for connections by TCP."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
    waiting = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    return waiting & {str(path.readlink()) for pid in pids for path in Path("/proc", str(pid), "fd").iterdir()}


def test_kvm_intel_nests_there(vmx_lab: Lab) -> None:
    assert vmx_lab.run(["cat", "/sys/module/kvm_intel/parameters/nested"]).stdout in (b"1\n", b"Y\n")


def test_kvm_offers_vmx_with_ept_and_unrestricted_guests_there(vmx_lab: Lab) -> None:
    # a VMCS in write-back memory (6), "enable EPT" and "unrestricted guest" allowed
    assert vmx_lab.run([sys.executable, "-c", KVM_HAS_VMX]) == LabResult(0, b"1 True 2 6 1 1\n", b"")


def test_doctor_finds_vmx_there(vmx_lab: Lab) -> None:
    command = [sys.executable, "-m", "nestvmm", "doctor", "--json"]
    result = vmx_lab.run(command, env={"PYTHONPATH": str(ROOT)}, timeout=200)
    assert result.status == 0, result.stderr.decode()
    found = json.loads(result.stdout)
    assert (found["vendor"], found["nesting"]["works"]) == ("GenuineIntel", True)
    assert found["nesting"]["detail"] == "guests can have VMX"


def test_bytes_go_there_and_come_back(vmx_lab: Lab) -> None:
    assert vmx_lab.run(["cat"], stdin=KILOBYTES) == LabResult(0, KILOBYTES, b"")


def test_streams_statuses_and_directory(vmx_lab: Lab) -> None:
    assert vmx_lab.run("pwd; echo err >&2; exit 7", cwd=ROOT) == LabResult(7, f"{ROOT}\n".encode(), b"err\n")
    assert vmx_lab.run(["nestvmm-no-such-program"]).status == 127
    assert vmx_lab.run("kill -TERM $$").status == 128 + signal.SIGTERM


def test_this_python_with_its_packages_runs_there(vmx_lab: Lab) -> None:
    script = "import sys, nestvmm, nestvmm._native, click, rich, pytest; print(sys.executable, nestvmm.__file__)"
    result = vmx_lab.run([sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT)})
    assert (result.stdout.decode(), result.stderr) == (f"{sys.executable} {nestvmm.__file__}\n", b"")


def test_nothing_is_compiled_there(vmx_lab: Lab) -> None:
    script = "import nestvmm.kvm, json, click"
    result = vmx_lab.run([sys.executable, "-B", "-v", "-c", script], env={"PYTHONPATH": str(ROOT)})
    lines = result.stderr.decode().splitlines()
    assert [line for line in lines if line.startswith("# code object from") and not line.endswith(".pyc'")] == []
    assert len([line for line in lines if line.endswith(".pyc'")]) > 50


def test_timeout_kills_everything_and_leaves_the_lab_usable(vmx_lab: Lab) -> None:
    with pytest.raises(LabTimeoutError) as caught:
        vmx_lab.run("setsid sleep 6100 & echo so far; while :; do :; done", timeout=4)
    assert caught.value.stdout == b"so far\n"
    if isinstance(vmx_lab, VmxLab):  # LocalLab has no cgroup of its own, so setsid escapes it
        assert vmx_lab.run("pgrep -x sleep || echo none").stdout == b"none\n"


def test_the_kernel_is_there_by_the_same_path(vmx_lab: Lab) -> None:
    magic = vmx_lab.run(["dd", f"if={vmx_lab.kernel}", "bs=1", "skip=514", "count=4"]).stdout
    assert magic == b"HdrS"
    assert vmx_lab.kernel.read_bytes()[514:518] == magic


def test_the_fixture_is_local_where_kvm_intel_nests(vmx_lab: Lab) -> None:
    assert isinstance(vmx_lab, LocalLab if kvm_intel_nests() else VmxLab)


@emulated
def test_two_labs_at_once_wait_for_no_one_take_files_along_and_leave_nothing(vmx_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/file").write_text("taken\n")
    (tmp_path / "more").write_text("along\n")
    (tmp_path / "link").symlink_to("more")
    before = bochs_children()
    with VmxLab(project=tmp_path / "project", files=[tmp_path / "link"]) as lab:
        assert len(bochs_children()) == len(before) + 1
        assert listening(*bochs_children()) == set()
        result = lab.run(f"cat file ../link; echo lost >file; readlink {tmp_path}/link", cwd=tmp_path / "project")
        assert result == LabResult(0, b"taken\nalong\nmore\n", b"")
        assert vmx_lab.run(["true"]).status == 0
    assert bochs_children() == before
    assert (tmp_path / "project/file").read_text() == "taken\n"


@emulated
def test_a_file_to_take_along_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"cannot take along {tmp_path}/none: No such file or directory"):
        VmxLab(files=[tmp_path / "none"]).__enter__()


@emulated
def test_too_little_memory_is_an_error() -> None:
    with pytest.raises(HostError, match="do not fit into 128 MiB of memory: ask for more"):
        VmxLab(memory=128).__enter__()
