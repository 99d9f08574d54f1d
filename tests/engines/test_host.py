"""What this host offers the engines: each thing that is missing, with its cause and its cure."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nestvmm.engines import host
from nestvmm.kvm import CpuidEntry, KvmError

SVM = CpuidEntry(function=0x80000001, ecx=4)
VMX = CpuidEntry(function=1, ecx=1 << 5)


class Machine:
    """A made-up host."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        self.cpuid: list[CpuidEntry] = []
        self._folder = folder
        self.processor("AuthenticAMD", "fpu svm")
        (folder / "modules").mkdir()
        monkeypatch.setattr(host, "_CPUINFO", folder / "cpuinfo")
        monkeypatch.setattr(host, "_MODULES", folder / "modules")
        monkeypatch.setattr(host, "Kvm", lambda: FakeKvm(self))

    def processor(self, vendor: str, flags: str) -> None:
        text = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: A CPU\nflags\t\t: {flags}\n\nvendor_id\t: other\n"
        (self._folder / "cpuinfo").write_text(text)

    def module(self, *names: str) -> None:
        for name in names:
            (self._folder / "modules" / name).mkdir()


class FakeKvm:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> FakeKvm:
        if self._machine.error is not None:
            raise KvmError("open of /dev/kvm", self._machine.error)
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def create_vm(self) -> FakeKvm:
        return self

    def get_supported_cpuid(self) -> list[CpuidEntry]:
        return self._machine.cpuid


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_host_that_nests(machine: Machine) -> None:
    machine.module("kvm", "kvm_amd", "loop")
    machine.cpuid = [CpuidEntry(function=1), SVM]
    found = host.examine()
    assert (found.vendor, found.model, found.modules) == ("AuthenticAMD", "A CPU", ("kvm", "kvm_amd"))
    assert (found.device.works, found.nesting.works, found.nesting.detail) == (True, True, "guests can have SVM")
    assert {one.name: one.works for one in found.engines} == {"direct": True, "svm": True, "vmx": False}
    by_name = {one.name: one for one in found.engines}
    assert by_name["vmx"].cause == "this host's guests have no VMX"
    assert by_name["vmx"].cure == (
        "use a host with kvm_intel and nested=1, or `nestvmm lab vmx -- COMMAND`, which emulates one"
    )


def test_an_engine_lacks_nested_virtualization_or_the_processor_for_it(machine: Machine) -> None:
    machine.module("kvm", "kvm_amd")
    by_name = {one.name: one for one in host.examine().engines}
    assert by_name["svm"].cause == "kvm_amd is loaded with nested=0"
    assert "sudo modprobe kvm_amd nested=1" in by_name["svm"].cure
    assert by_name["vmx"].cause == "this host's guests have no VMX"


@pytest.mark.parametrize(
    ("module", "cpuid", "works", "cause", "cure"),
    [
        ("kvm_amd", [], False, "kvm_amd is loaded with nested=0", "modprobe kvm_amd nested=1"),
        ("kvm_intel", [], False, "kvm_intel is loaded with nested=0", "modprobe kvm_intel nested=1"),
        ("kvm_pvm", [], False, "this KVM offers its guests neither SVM nor VMX (AuthenticAMD", "nestvmm lab svm"),
        ("kvm_intel", [VMX], True, "", ""),
    ],
)
def test_nesting(machine: Machine, module: str, cpuid: list[CpuidEntry], works: bool, cause: str, cure: str) -> None:
    machine.module("kvm", module)
    machine.cpuid = cpuid
    nesting = host.examine().nesting
    assert nesting.works == works
    assert cause in nesting.cause
    assert cure in nesting.cure


@pytest.mark.parametrize(
    ("number", "flags", "cause", "cure"),
    [
        (errno.EACCES, "svm", "you may not open it", "sudo usermod -aG kvm $USER"),
        (errno.EBUSY, "svm", "another hypervisor holds the processor's virtualization", "stop VirtualBox"),
        (errno.ENOENT, "fpu", "this processor shows neither SVM nor VMX", "--enable-nested-virtualization"),
        (errno.ENOENT, "fpu vmx", "the kvm module is not loaded", "modprobe kvm_amd nested=1, or"),
        (errno.ENODEV, "svm", "the kvm module is not loaded", "modprobe"),
        (errno.EIO, "svm", "KVM refused", "see dmesg"),
    ],
)
def test_without_dev_kvm_nothing_works_and_the_cause_is_told(
    machine: Machine, number: int, flags: str, cause: str, cure: str
) -> None:
    machine.processor("GenuineIntel", flags)
    machine.error = number
    found = host.examine()
    assert not found.device.works
    assert found.device.cause == cause
    assert cure in found.device.cure
    assert errno.errorcode[number] in found.device.detail
    assert found.nesting.cause == "/dev/kvm does not work"
    assert [one.works for one in found.engines] == [False] * 3
    assert found.engines[0].cure == found.device.cure


def test_a_host_that_tells_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "none")
    found = host.examine()
    assert (found.vendor, found.model, found.modules) == ("unknown", "unknown", ())


@pytest.mark.kvm
def test_this_host_runs_the_direct_engine() -> None:
    found = host.examine()
    assert found.device.works
    assert found.engines[0].works
