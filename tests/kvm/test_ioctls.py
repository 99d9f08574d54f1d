from __future__ import annotations

import pytest

from nestvmm.kvm import ioctls
from nestvmm.kvm.caps import Cap
from nestvmm.kvm.ioctls import Ioctl

ALL = [value for value in vars(ioctls).values() if isinstance(value, Ioctl)]


def test_all_are_kvm_ioctls() -> None:
    assert len(ALL) > 60
    assert {value.request >> 8 & 0xFF for value in ALL} == {0xAE}  # KVMIO
    assert {value.name[:4] for value in ALL} == {"KVM_"}


@pytest.mark.parametrize(
    ("ioctl", "request_", "capability"),
    [
        (ioctls.RUN, 0xAE80, None),
        (ioctls.GET_REGS, 0x8090AE81, None),
        (ioctls.SET_SREGS, 0x4138AE84, None),
        (ioctls.SET_USER_MEMORY_REGION, 0x4020AE46, Cap.USER_MEMORY),
        (ioctls.SET_MSR_FILTER, 0x4188AEC6, Cap.X86_MSR_FILTER),
        (ioctls.GET_NESTED_STATE, 0xC080AEBE, Cap.NESTED_STATE),
        (ioctls.GET_STATS_FD, 0xAECE, Cap.BINARY_STATS_FD),
    ],
)
def test_numbers_are_the_abi(ioctl: Ioctl, request_: int, capability: Cap | None) -> None:
    assert (ioctl.request, ioctl.capability) == (request_, capability)
