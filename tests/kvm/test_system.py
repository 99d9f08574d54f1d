from __future__ import annotations

import os
from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOTTY

import pytest

from nestvmm.kvm import Cap, Kvm, KvmError


@pytest.mark.kvm
def test_version_sizes_and_capabilities(kvm: Kvm) -> None:
    assert kvm.api_version() == 12
    assert kvm.run_size() >= 2 * 4096
    assert kvm.check(Cap.USER_MEMORY) == 1
    assert kvm.check(Cap.NR_MEMSLOTS) >= 32
    assert kvm.check(100000) == 0


@pytest.mark.kvm
def test_supported_cpuid_names_the_vendor(kvm: Kvm) -> None:
    leaves = {(entry.function, entry.index): entry for entry in kvm.get_supported_cpuid()}
    leaf = leaves[0, 0]
    vendor = b"".join(register.to_bytes(4, "little") for register in (leaf.ebx, leaf.edx, leaf.ecx))
    assert vendor in (b"AuthenticAMD", b"GenuineIntel", b"HygonGenuine")
    assert leaves[0x40000000, 0].ebx.to_bytes(4, "little") == b"KVMK"


@pytest.mark.kvm
def test_emulated_cpuid_has_movbe(kvm: Kvm) -> None:
    leaves = {entry.function: entry for entry in kvm.get_emulated_cpuid()}
    assert leaves[1].ecx >> 22 & 1 == 1


@pytest.mark.kvm
def test_msr_lists(kvm: Kvm) -> None:
    indices = kvm.get_msr_index_list()
    assert {0x10, 0x174, 0x175, 0x176, 0xC0000081} <= set(indices)  # TSC, SYSENTER_*, STAR
    assert len(set(indices)) == len(indices)


@pytest.mark.kvm
def test_feature_msrs(kvm: Kvm) -> None:
    indices = kvm.get_msr_feature_index_list()
    assert 0x8B in indices  # microcode revision
    assert kvm.get_feature_msrs([0x8B]).keys() == {0x8B}
    with pytest.raises(KvmError, match=r"KVM_GET_MSRS failed: Invalid argument \(EINVAL\); KVM refuses MSR 0x12345"):
        kvm.get_feature_msrs([0x8B, 0x12345])


@pytest.mark.kvm
def test_a_wrong_machine_type_is_an_error(kvm: Kvm) -> None:
    with pytest.raises(KvmError) as caught:
        kvm.create_vm(0xFFFF)
    assert (caught.value.ioctl, caught.value.errno, caught.value.capability) == ("KVM_CREATE_VM", EINVAL, None)
    assert str(caught.value) == "KVM_CREATE_VM failed: Invalid argument (EINVAL)"


@pytest.mark.kvm
def test_use_after_close_is_an_error() -> None:
    kvm = Kvm()
    vm = kvm.create_vm()
    vcpu = vm.create_vcpu()
    for handle in (vcpu, vm, kvm):
        handle.close()
        handle.close()
    for use, name in (
        (kvm.api_version, "Kvm"),
        (vm.create_irqchip, "Vm"),
        (vcpu.get_regs, "Vcpu"),
        (vcpu.run, "Vcpu"),
        (lambda: vcpu.kvm_run, "Vcpu"),
        (lambda: vcpu.run_address, "Vcpu"),
        (lambda: vm.fd, "Vm"),
    ):
        with pytest.raises(ValueError, match=f"this {name} is closed"):
            use()


@pytest.mark.kvm
def test_everything_is_given_back() -> None:
    def use() -> None:
        with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu() as vcpu, vcpu.stats() as stats:
            stats.read()

    use()
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names only)
    use()
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.kvm
def test_a_forgotten_handle_closes_itself(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    fd = vm.fd
    del vm
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_no_device_says_what_to_do() -> None:
    with pytest.raises(KvmError) as caught:
        Kvm("/dev/no-such-kvm")
    assert (caught.value.ioctl, caught.value.errno) == ("open /dev/no-such-kvm", ENOENT)
    assert str(caught.value).startswith(
        "open /dev/no-such-kvm failed: No such file or directory (ENOENT); load the module kvm_amd or kvm_intel"
    )


@pytest.mark.parametrize(
    ("errno", "advice"),
    [(EACCES, "usermod -aG kvm USER"), (EBUSY, "another hypervisor"), (ENOENT, "nested virtualization")],
)
def test_each_cause_has_its_advice(monkeypatch: pytest.MonkeyPatch, errno: int, advice: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno, os.strerror(errno))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(KvmError, match=advice) as caught:
        Kvm()
    assert caught.value.errno == errno


def test_a_device_that_is_not_kvm_is_named() -> None:
    with pytest.raises(KvmError) as caught:
        Kvm("/dev/null")
    assert caught.value.errno == ENOTTY
    assert str(caught.value) == (
        "KVM_GET_API_VERSION failed: Inappropriate ioctl for device (ENOTTY); /dev/null is not KVM's device"
    )
