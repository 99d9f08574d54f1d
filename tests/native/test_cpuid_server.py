"""CPUID as L0 answers it: the exposure's leaves, and what depends on level n's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nestvmm._native import ffi, lib
from nestvmm.engines.cpuid import CpuidServer
from nestvmm.kvm import CpuidEntry, Kvm

INDEXED = 1
INTEL = (0x756E6547, 0x6C65746E, 0x49656E69)  # EBX, ECX, EDX
AMD = (0x68747541, 0x444D4163, 0x69746E65)
OSXSAVE, PKE = 1 << 18, 1 << 22


def basic(last: int, vendor: tuple[int, int, int]) -> CpuidEntry:
    return CpuidEntry(function=0, eax=last, ebx=vendor[0], ecx=vendor[1], edx=vendor[2])


class Guest:
    """Level n's registers and CR4, and what answers it."""

    def __init__(self, *entries: CpuidEntry, fd: int = -1) -> None:
        self.regs, self.cr4 = ffi.new("uint64_t[18]"), ffi.new("uint64_t *")
        self._server = CpuidServer(fd, self.regs, self.cr4)
        self._server.fill(entries)

    def leaf(self, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX and EDX after CPUID, whose upper halves were not zero."""
        self.regs[0], self.regs[1], self.regs[2], self.regs[3] = leaf | 1 << 32, subleaf | 1 << 40, 1 << 50, 1 << 60
        event: Any = ffi.new("struct nv_event *")
        assert lib.nv_cpuid_serve(self._server.server.device, leaf, event) == lib.NV_HANDLED
        eax, ecx, edx, ebx = self.regs[0:4]
        return eax, ebx, ecx, edx


def test_leaves_and_subleaves() -> None:
    guest = Guest(
        basic(7, AMD),
        CpuidEntry(function=4, index=0, flags=INDEXED, eax=1),
        CpuidEntry(function=4, index=1, flags=INDEXED, eax=2),
        CpuidEntry(function=6, eax=3, ebx=4, ecx=5, edx=6),
    )
    assert guest.leaf(6, 99) == (3, 4, 5, 6)
    assert [guest.leaf(4, index)[0] for index in (0, 1, 2)] == [1, 2, 0]
    assert guest.leaf(5) == guest.leaf(8) == guest.leaf(0x80000000) == (0, 0, 0, 0)


def test_beyond_the_last_leaf_intel_gives_the_last_basic_one() -> None:
    entries = [CpuidEntry(function=7, index=0, flags=INDEXED, ebx=7), CpuidEntry(function=0x80000000, eax=0x80000008)]
    guest = Guest(basic(7, INTEL), *entries)
    assert guest.leaf(8)[1] == guest.leaf(0x7FFFFFFF)[1] == guest.leaf(0x80000009)[1] == guest.leaf(0xC0000000)[1] == 7
    assert guest.leaf(6) == guest.leaf(0x80000005) == (0, 0, 0, 0), "within: a leaf that is not there"
    assert guest.leaf(0x40000000)[1] == 7
    guest = Guest(basic(7, INTEL), *entries, CpuidEntry(function=0x40000000, eax=0x40000001))
    assert (guest.leaf(0x40000001), guest.leaf(0x40000002)[1]) == ((0, 0, 0, 0), 7)
    assert Guest(basic(7, AMD), *entries).leaf(8) == (0, 0, 0, 0)


def test_bits_that_follow_cr4() -> None:
    guest = Guest(
        basic(7, AMD),
        CpuidEntry(function=1, ecx=1 << 26 | 1 << 27),
        CpuidEntry(function=7, index=0, flags=INDEXED, ecx=1 << 3),
        CpuidEntry(function=7, index=1, flags=INDEXED),
    )
    assert (guest.leaf(1)[2], guest.leaf(7)[2]) == (1 << 26, 1 << 3)
    guest.cr4[0] = OSXSAVE
    assert (guest.leaf(1)[2], guest.leaf(7)[2]) == (1 << 26 | 1 << 27, 1 << 3)
    guest.cr4[0] = PKE
    assert (guest.leaf(1)[2], guest.leaf(7)[2], guest.leaf(7, 1)[2]) == (1 << 26, 1 << 3 | 1 << 4, 0)


def test_beyond_the_topologys_last_level() -> None:
    guest = Guest(basic(0xB, AMD), CpuidEntry(function=0xB, index=0, flags=INDEXED, ebx=1, ecx=0x100, edx=5))
    assert guest.leaf(0xB, 0x1FF) == (0, 0, 0xFF, 5)
    assert guest.leaf(0x1F, 3) == (0, 0, 0, 0)


XSAVE = [
    CpuidEntry(function=0xD, index=0, flags=INDEXED, eax=0x27, ebx=1, ecx=0xA00),
    CpuidEntry(function=0xD, index=1, flags=INDEXED, eax=2, ebx=1),
    CpuidEntry(function=0xD, index=2, flags=INDEXED, eax=0x100, ebx=0x240),
    CpuidEntry(function=0xD, index=5, flags=INDEXED, eax=0x40, ebx=0x980, ecx=2),
]


def test_the_area_without_a_vcpu_is_the_least() -> None:
    assert [Guest(basic(0xD, AMD), *XSAVE).leaf(0xD, index)[1] for index in (0, 1, 2)] == [0x240, 0x240, 0x240]


@pytest.fixture
def vcpu_fd() -> Iterator[int]:
    """A vCPU's whose XCR0 is x87, SSE and AVX."""
    with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu() as vcpu:
        vcpu.set_cpuid(kvm.get_supported_cpuid())
        vcpu.set_xcrs({0: 7})
        yield vcpu.fd


@pytest.mark.kvm
def test_the_area_has_room_for_what_xcr0_enables(vcpu_fd: int) -> None:
    guest = Guest(basic(0xD, AMD), *XSAVE, fd=vcpu_fd)
    assert [guest.leaf(0xD, index)[1] for index in (0, 1)] == [0x340, 0x340]
