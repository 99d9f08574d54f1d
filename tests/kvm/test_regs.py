"""The general registers, which are words and make integers as they are asked for."""

from __future__ import annotations

import copy
import pickle
import struct

import pytest

from nestvmm._native import ffi
from nestvmm.kvm import Regs, Vcpu

NAMES = Regs.__match_args__
VALUES = (*range(100, 117), (1 << 64) - 1)
PACKED = struct.pack("<18Q", *VALUES)


def test_each_is_where_kvm_has_it() -> None:
    c = ffi.new("struct kvm_regs *")
    for value, name in enumerate(NAMES, start=100):
        setattr(c, name, value)
    regs = Regs.of(c)
    assert [getattr(regs, name) for name in NAMES] == [*range(100, 118)]
    assert bytes(ffi.buffer(regs.fill(Regs.new()))) == bytes(ffi.buffer(c)) == regs.pack()
    assert tuple(name for name, _ in ffi.typeof("struct kvm_regs").fields) == NAMES


def test_they_are_a_record() -> None:
    assert Regs() == Regs(rflags=2)
    assert Regs(1, rip=3) == Regs(rip=3, rax=1)
    assert repr(Regs(rbx=7)).startswith("Regs(rax=0, rbx=7, rcx=0, ")
    with pytest.raises(TypeError, match="Regs has 18 fields, 19 were given"):
        Regs(*range(19))
    with pytest.raises(TypeError, match="Regs does not take eax here"):
        Regs(eax=1)  # type: ignore[call-arg]


def test_equality_is_that_of_all() -> None:
    for name in NAMES:
        other = Regs.unpack(PACKED)
        setattr(other, name, 5)
        assert other != Regs.unpack(PACKED)
    assert Regs.unpack(PACKED) == Regs(*VALUES)
    assert Regs() != 5
    with pytest.raises(TypeError):
        _ = Regs() < Regs()
    with pytest.raises(TypeError, match="unhashable"):
        hash(Regs())


def test_a_copy_is_its_own() -> None:
    regs = Regs.unpack(PACKED)
    for made in (regs.copy(), copy.copy(regs), copy.deepcopy(regs), pickle.loads(pickle.dumps(regs))):
        assert (type(made), made) == (Regs, regs)
        made.rbx += 1
        assert (made.rbx, regs.rbx) == (102, 101)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rax", 1 << 64, "Regs.rax: 18446744073709551616 does not fit into 64 bits"),
        ("rip", -1, "Regs.rip: -1 does not fit into 64 bits"),
        ("r9", "1", "Regs.r9: a str cannot be stored"),
        ("r9", 1.0, "Regs.r9: a float cannot be stored"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: object, message: str) -> None:
    regs = Regs.unpack(PACKED)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message follows
        setattr(regs, name, value)
    assert str(error.value) == message
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Regs(**{name: value})  # type: ignore[arg-type]
    assert str(error.value) == message
    assert regs == Regs(*VALUES)


def test_a_misspelt_one_and_a_deleted_one_are_errors() -> None:
    regs = Regs()
    with pytest.raises(AttributeError):
        regs.rpi = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="rdi of registers cannot be deleted"):
        del regs.rdi


@pytest.mark.parametrize("size", [0, 143, 145])
def test_other_bytes_are_no_registers(size: int) -> None:
    with pytest.raises(ValueError, match=f"registers are 144 bytes, {size} were given"):
        Regs.unpack(bytes(size))
    with pytest.raises(TypeError):
        Regs.unpack(18)


@pytest.mark.kvm
def test_a_vcpu_takes_what_it_gave(vcpu: Vcpu) -> None:
    vcpu.set_regs(Regs(*range(1, 17), 0x1000, 0x46))
    regs = vcpu.get_regs()
    assert regs == Regs(*range(1, 17), 0x1000, 0x46)
    regs.r8, regs.rip = (1 << 64) - 1, 0x2000
    vcpu.set_regs(regs)
    assert vcpu.get_regs() == Regs(*range(1, 9), (1 << 64) - 1, *range(10, 17), 0x2000, 0x46)
