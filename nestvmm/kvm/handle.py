"""What /dev/kvm, a VM and a vCPU have in common: a descriptor that takes ioctls and is closed once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self, TypeVar

from nestvmm._native import ffi, lib
from nestvmm.kvm import ioctls
from nestvmm.kvm.caps import Cap
from nestvmm.kvm.errors import KvmError
from nestvmm.kvm.ioctls import Ioctl
from nestvmm.kvm.record import Struct

__all__ = ["Handle"]

_S = TypeVar("_S", bound=Struct)


class Handle:
    """Owns a KVM descriptor. Closing it twice is harmless; using it after that raises ValueError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The descriptor, for as long as this object is open."""
        if self._fd < 0:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self._fd

    def close(self) -> None:
        """Give the descriptor back to the system."""
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def check(self, cap: Cap | int) -> int:
        """KVM_CHECK_EXTENSION: 0 when the capability is missing, else 1 or the capability's own value."""
        return self._ioctl(ioctls.CHECK_EXTENSION, int(cap))

    def _ioctl(self, ioctl: Ioctl, argument: Any = 0) -> int:
        """The ioctl's result. `argument` is a number or a cffi pointer."""
        call = lib.nv_ioctl_value if isinstance(argument, int) else lib.nv_ioctl
        result: int = call(self.fd, ioctl.request, argument)
        if result < 0:
            raise self._error(ioctl, -result)
        return result

    def _error(self, ioctl: Ioctl, errno: int, hint: str = "") -> KvmError:
        missing = ioctl.capability is not None and not self.check(ioctl.capability)
        return KvmError(ioctl.name, errno, ioctl.capability if missing else None, hint)

    def _get(self, ioctl: Ioctl, kind: type[_S]) -> _S:
        c = kind.new()
        self._ioctl(ioctl, c)
        return kind.of(c)

    def _set(self, ioctl: Ioctl, struct: Struct) -> None:
        self._ioctl(ioctl, struct.fill(struct.new()))

    def _enable_cap(self, ioctl: Ioctl, cap: Cap | int, args: Sequence[int]) -> None:
        request = ffi.new("struct kvm_enable_cap *", {"cap": int(cap), "args": list(args)})
        try:
            self._ioctl(ioctl, request)
        except KvmError as error:
            if error.capability is None and isinstance(cap, Cap) and not self.check(cap):
                raise KvmError(error.ioctl, error.errno or 0, cap) from None
            raise
