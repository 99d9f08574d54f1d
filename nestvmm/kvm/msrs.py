"""Lists of model-specific registers in and out of KVM, and the filter that sends their accesses to userspace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from errno import E2BIG, EINVAL
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.kvm.errors import KvmError
from nestvmm.kvm.handle import Handle
from nestvmm.kvm.ioctls import Ioctl
from nestvmm.kvm.record import Value

__all__ = ["MsrFilterRange", "c_msr_filter", "read_msr_indices", "read_msrs", "write_msrs"]

_MOST = 255  # KVM takes fewer than 256 in one call


class MsrFilterRange(Value):
    """MSRs `base` to `base + count - 1`: bit n of `allowed` (byte n // 8, bit n % 8) lets accesses to base + n through.

    What is not allowed goes to userspace (RdmsrExit, WrmsrExit) if KVM_CAP_X86_USER_SPACE_MSR asked for it, else it
    raises #GP. No `allowed` denies all of them. `read`, `write`: which accesses this range is about.
    """

    base: int
    count: int = 1
    allowed: bytes = b""
    read: bool = True
    write: bool = True


def read_msr_indices(handle: Handle, ioctl: Ioctl) -> list[int]:
    """The MSR numbers that a KVM_GET_MSR*_INDEX_LIST ioctl gives."""
    c = ffi.new("struct kvm_msr_list *", {"nmsrs": 0, "indices": 0})
    try:
        handle._ioctl(ioctl, c)
    except KvmError as error:
        if error.errno != E2BIG:
            raise
        c = ffi.new("struct kvm_msr_list *", {"nmsrs": c.nmsrs, "indices": c.nmsrs})
        handle._ioctl(ioctl, c)
    return list(c.indices[0 : c.nmsrs])


def read_msrs(handle: Handle, ioctl: Ioctl, indices: Iterable[int]) -> dict[int, int]:
    """The values of these MSRs. Raises KvmError naming the first that KVM refuses."""
    values: dict[int, int] = {}
    for part in _parts(list(indices)):
        c = _c_msrs(part, [0] * len(part))
        _whole(handle, ioctl, part, c)
        values.update((c.entries[at].index, c.entries[at].data) for at in range(len(part)))
    return values


def write_msrs(handle: Handle, ioctl: Ioctl, values: Mapping[int, int]) -> None:
    """Set these MSRs in order. Raises KvmError naming the first that KVM refuses; those before it are set."""
    for part in _parts(list(values)):
        _whole(handle, ioctl, part, _c_msrs(part, [values[index] for index in part]))


def c_msr_filter(ranges: Sequence[MsrFilterRange], default_deny: bool) -> tuple[Any, list[Any]]:
    """A `struct kvm_msr_filter *` and the bitmaps that must live as long as it."""
    if len(ranges) > lib.KVM_MSR_FILTER_MAX_RANGES:
        raise ValueError(f"{len(ranges)} ranges: an MSR filter has at most {lib.KVM_MSR_FILTER_MAX_RANGES}")
    c = ffi.new("struct kvm_msr_filter *")
    c.flags = lib.KVM_MSR_FILTER_DEFAULT_DENY if default_deny else lib.KVM_MSR_FILTER_DEFAULT_ALLOW
    bitmaps = []
    for place, wanted in zip(c.ranges, ranges, strict=False):
        if not 0 < wanted.count <= lib.KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8:
            raise ValueError(f"{wanted}: count must be 1 to {lib.KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8}")
        size = (wanted.count + 7) // 8
        if wanted.allowed and len(wanted.allowed) != size:
            raise ValueError(f"{wanted}: allowed must have {size} bytes")
        # KVM reads whole words
        bitmap = ffi.new("unsigned char[]", (wanted.allowed or bytes(size)).ljust((size + 7) // 8 * 8, b"\0"))
        bitmaps.append(bitmap)
        place.flags = (lib.KVM_MSR_FILTER_READ if wanted.read else 0) | (
            lib.KVM_MSR_FILTER_WRITE if wanted.write else 0
        )
        place.nmsrs, place.base, place.bitmap = wanted.count, wanted.base, bitmap
    return c, bitmaps


def _parts(indices: list[int]) -> list[list[int]]:
    return [indices[at : at + _MOST] for at in range(0, len(indices), _MOST)]


def _c_msrs(indices: list[int], values: list[int]) -> Any:
    entries = [{"index": index, "data": value} for index, value in zip(indices, values, strict=True)]
    return ffi.new("struct kvm_msrs *", {"nmsrs": len(entries), "entries": entries})


def _whole(handle: Handle, ioctl: Ioctl, indices: list[int], c: Any) -> None:
    """KVM stops at the first MSR that it refuses and gives how many it did: make that an error."""
    done = handle._ioctl(ioctl, c)
    if done < len(indices):
        raise handle._error(ioctl, EINVAL, f"KVM refuses MSR {indices[done]:#x}")
