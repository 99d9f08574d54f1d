"""The one error of this package."""

from __future__ import annotations

import os
from errno import EACCES, EBUSY, ENODEV, ENOENT, ENXIO, EPERM, errorcode

from nestvmm.kvm.caps import Cap

__all__ = ["KvmError"]

_NO_KVM = (
    "load the module kvm_amd or kvm_intel; without it, enable virtualization in the firmware or, in a virtual machine, "
    "nested virtualization at its provider; in a container, pass the device in (--device /dev/kvm)"
)
_NO_ACCESS = "join the device's group (usermod -aG kvm USER, then log in again) or run as root"

OPEN_HINTS = {
    ENOENT: _NO_KVM,
    ENODEV: _NO_KVM,
    ENXIO: _NO_KVM,
    EACCES: _NO_ACCESS,
    EPERM: _NO_ACCESS,
    EBUSY: "another hypervisor (such as VirtualBox) holds the processor's virtualization: stop it",
}


class KvmError(OSError):
    """An ioctl, or another call on a KVM descriptor, failed.

    ioctl:      its name as in <linux/kvm.h>, such as "KVM_SET_REGS"; for other calls what was done: "open /dev/kvm"
    errno:      the number that the kernel gave
    capability: the capability that the ioctl needs and this host's KVM lacks, else None
    """

    def __init__(self, ioctl: str, errno: int, capability: Cap | None = None, hint: str = "") -> None:
        self.ioctl = ioctl
        self.capability = capability
        message = f"{ioctl} failed: {os.strerror(errno)} ({errorcode.get(errno, errno)})"
        if capability is not None:
            message += f"; this host's KVM lacks KVM_CAP_{capability.name}"
        if hint:
            message += f"; {hint}"
        super().__init__(errno, message)

    def __str__(self) -> str:
        return str(self.strerror)
