"""Lists of CPUID leaves in and out of KVM."""

from __future__ import annotations

from collections.abc import Iterable
from errno import E2BIG
from typing import Any

from nestvmm._native import ffi
from nestvmm.kvm.errors import KvmError
from nestvmm.kvm.handle import Handle
from nestvmm.kvm.ioctls import Ioctl
from nestvmm.kvm.structs import CpuidEntry

__all__ = ["c_cpuid", "read_cpuid"]

_MOST = 4096


def read_cpuid(handle: Handle, ioctl: Ioctl) -> list[CpuidEntry]:
    """The leaves that a KVM_GET_*CPUID* ioctl gives, however many there are."""
    count = 128
    while True:
        c = ffi.new("struct kvm_cpuid2 *", {"nent": count, "entries": count})
        try:
            handle._ioctl(ioctl, c)
        except KvmError as error:
            if error.errno != E2BIG or count >= _MOST:
                raise
            count *= 2
            continue
        return [CpuidEntry.of(c.entries[index]) for index in range(c.nent)]


def c_cpuid(entries: Iterable[CpuidEntry]) -> Any:
    """A `struct kvm_cpuid2 *` of these leaves."""
    entries = list(entries)
    c = ffi.new("struct kvm_cpuid2 *", {"nent": len(entries), "entries": len(entries)})
    for index, entry in enumerate(entries):
        entry.fill(c.entries[index])
    return c
