"""/dev/kvm itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import ENOTTY, EPROTONOSUPPORT

from nestvmm._native import lib
from nestvmm.kvm import ioctls
from nestvmm.kvm.cpuid import read_cpuid
from nestvmm.kvm.errors import OPEN_HINTS, KvmError
from nestvmm.kvm.handle import Handle
from nestvmm.kvm.msrs import read_msr_indices, read_msrs
from nestvmm.kvm.structs import CpuidEntry
from nestvmm.kvm.vm import Vm

__all__ = ["Kvm"]


class Kvm(Handle):
    """The host's KVM: what it can do, and the maker of VMs.

    Raises KvmError, saying what to do, when `path` cannot be opened or is not a KVM of API version 12.
    """

    def __init__(self, path: str = "/dev/kvm") -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            errno = error.errno or 0
            raise KvmError(f"open {path}", errno, hint=OPEN_HINTS.get(errno, "")) from None
        super().__init__(fd)
        try:
            version = self.api_version()
            if version != lib.KVM_API_VERSION:
                hint = f"version {version} is not {lib.KVM_API_VERSION}: use a kernel that has KVM's stable interface"
                raise KvmError(ioctls.GET_API_VERSION.name, EPROTONOSUPPORT, hint=hint)
            self._run_size = self._ioctl(ioctls.GET_VCPU_MMAP_SIZE)
        except KvmError as error:
            self.close()
            if error.errno == ENOTTY:
                raise KvmError(error.ioctl, ENOTTY, hint=f"{path} is not KVM's device") from None
            raise

    def api_version(self) -> int:
        """KVM_GET_API_VERSION: 12."""
        return self._ioctl(ioctls.GET_API_VERSION)

    def run_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE: bytes of a vCPU's mapping."""
        return self._run_size

    def get_supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID: what the host and KVM can give a guest."""
        return read_cpuid(self, ioctls.GET_SUPPORTED_CPUID)

    def get_emulated_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_EMULATED_CPUID: features that KVM emulates in software."""
        return read_cpuid(self, ioctls.GET_EMULATED_CPUID)

    def get_msr_index_list(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST: the MSRs that a guest's state consists of."""
        return read_msr_indices(self, ioctls.GET_MSR_INDEX_LIST)

    def get_msr_feature_index_list(self) -> list[int]:
        """KVM_GET_MSR_FEATURE_INDEX_LIST: the MSRs that say what the processor can do."""
        return read_msr_indices(self, ioctls.GET_MSR_FEATURE_INDEX_LIST)

    def get_feature_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS of feature MSRs."""
        return read_msrs(self, ioctls.GET_FEATURE_MSRS, indices)

    def create_vm(self, machine_type: int = 0) -> Vm:
        """KVM_CREATE_VM. `machine_type` is a KVM_X86_*_VM number; 0 is an ordinary VM."""
        try:
            fd = self._ioctl(ioctls.CREATE_VM, machine_type)
        except KvmError as error:
            errno = error.errno or 0
            raise KvmError(error.ioctl, errno, error.capability, OPEN_HINTS.get(errno, "")) from None
        return Vm(fd, self._run_size)
