"""Registers that are unpacked one by one."""

from __future__ import annotations

import copy
import pickle
import struct

import pytest

from nestvmm.kvm import PackedRegs, Regs, Vcpu
from nestvmm.kvm.packed_regs import VcpuRegs

NAMES = Regs.__match_args__
PACKED = struct.pack("<18Q", *range(100, 117), 1 << 64 - 1)


class Backwards(PackedRegs, names=NAMES[::-1]):
    """The last one first."""


@pytest.fixture(params=[VcpuRegs, Backwards])
def regs(request: pytest.FixtureRequest) -> PackedRegs:
    made: PackedRegs = request.param.on(PACKED)
    return made


def test_each_is_where_its_name_is() -> None:
    for kind, names in ((VcpuRegs, NAMES), (Backwards, NAMES[::-1])):
        found = kind.on(PACKED)
        assert [getattr(found, name) for name in names] == [*range(100, 117), 1 << 64 - 1]


def test_they_equal_plain_ones(regs: PackedRegs) -> None:
    plain = Regs(*(getattr(regs, name) for name in NAMES))
    assert regs == plain
    assert plain == regs
    plain.r15 += 1
    assert regs != plain
    assert plain != regs
    assert regs != 5
    with pytest.raises(TypeError, match="unhashable"):
        hash(regs)


def test_a_change_is_its_own(regs: PackedRegs) -> None:
    before = regs.rbx
    other = regs.copy()
    regs.rbx += 1
    third = regs.copy()
    third.rcx = 7
    assert (regs.rbx, other.rbx, third.rbx) == (before + 1, before, before + 1)
    assert regs.rcx == other.rcx != 7
    assert list(regs.changed_from(other)) == ["rbx"]
    assert list(other.changed_from(regs)) == ["rbx"]
    assert list(third.changed_from(other)) == ["rbx", "rcx"]


def test_what_is_as_it_was_has_not_changed(regs: PackedRegs) -> None:
    other = regs.copy()
    regs.rsp = regs.rsp + 1
    regs.rsp = other.rsp
    assert list(regs.changed_from(other)) == []


def test_changes_are_seen_against_plain_ones(regs: PackedRegs) -> None:
    plain = copy.copy(regs)
    plain.rip, plain.rax = 1, 2
    assert list(plain.changed_from(regs)) == ["rax", "rip"]
    assert list(regs.changed_from(plain)) == ["rax", "rip"]


def test_copies_by_other_ways_are_plain(regs: PackedRegs) -> None:
    regs.rdi = 5
    for made in (copy.copy(regs), copy.deepcopy(regs), pickle.loads(pickle.dumps(regs))):
        assert type(made) is Regs
        assert made == regs


def test_a_misspelt_one_is_an_error(regs: PackedRegs) -> None:
    with pytest.raises(AttributeError):
        regs.rpi = 1  # type: ignore[attr-defined]


@pytest.mark.kvm
def test_a_vcpu_takes_what_it_gave(vcpu: Vcpu) -> None:
    vcpu.set_regs(Regs(*range(1, 17), 0x1000, 0x46))
    regs = vcpu.get_regs()
    assert isinstance(regs, VcpuRegs)
    assert regs == Regs(*range(1, 17), 0x1000, 0x46)
    regs.r8, regs.rip = (1 << 64) - 1, 0x2000
    vcpu.set_regs(regs)
    assert vcpu.get_regs() == Regs(*range(1, 9), (1 << 64) - 1, *range(10, 17), 0x2000, 0x46)


@pytest.mark.kvm
def test_what_does_not_fit_is_named(vcpu: Vcpu) -> None:
    regs = vcpu.get_regs()
    regs.rsi = 1 << 64
    with pytest.raises(ValueError, match=r"VcpuRegs\.rsi"):
        vcpu.set_regs(regs)
