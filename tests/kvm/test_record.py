from __future__ import annotations

import copy
import pickle

import pytest

from nestvmm.kvm import HltExit, IoapicState, IoExit, Regs, Segment, Sregs


def test_fields_by_position_name_and_default() -> None:
    regs = Regs(1, rip=0x1000)
    assert (regs.rax, regs.rip, regs.rflags, regs.rbx) == (1, 0x1000, 2, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segment(base=1, eax=2), "Segment does not take eax here; its fields are base, limit"),
        (lambda: Segment(1, base=2), "Segment does not take base here"),
        (lambda: HltExit(1), "HltExit has 0 fields, 1 were given"),
        (lambda: IoExit(True, 0x80), "IoExit needs size"),
    ],
)
def test_wrong_arguments_are_named(make, message) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Regs().rpi = 1


def test_default_records_are_not_shared() -> None:
    one, other = Sregs(), Sregs()
    one.cs.base = 7
    assert other.cs.base == 0
    assert Sregs().cs == Segment()
    table = IoapicState()
    table.redirtbl[0].bits = 5
    assert [entry.bits for entry in table.redirtbl] == [5] + [0] * 23
    assert IoapicState().redirtbl[0].bits == 0


def test_equality_needs_the_same_type_and_fields() -> None:
    assert Regs(rax=1) == Regs(rax=1)
    assert Regs(rax=1) != Regs(rax=2)
    assert HltExit() == HltExit()
    assert Segment() != Regs()
    assert HltExit() != ()


def test_values_are_immutable_and_hash() -> None:
    value = IoExit(False, 0x60, 1)
    with pytest.raises(AttributeError, match="IoExit is immutable: port cannot be set"):
        value.port = 1
    with pytest.raises(AttributeError, match="IoExit is immutable: port cannot be deleted"):
        del value.port
    assert {value: 1}[IoExit(False, 0x60, 1)] == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Regs())


def test_repr_reads_like_the_call() -> None:
    assert repr(IoExit(True, 128, 1, 1, b"a")) == "IoExit(is_write=True, port=128, size=1, count=1, data=b'a')"


def test_match_by_position() -> None:
    match IoExit(True, 0x80, 1, 1, b"a"):
        case IoExit(True, 0x80, _, _, data):
            assert data == b"a"
        case _:
            pytest.fail("no match")


def test_copies() -> None:
    sregs = Sregs(cr3=5)
    deep = copy.deepcopy(sregs)
    deep.cs.base = 9
    assert (deep.cr3, sregs.cs.base) == (5, 0)
    value = IoExit(True, 1, 1, 1, b"x")
    assert copy.copy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value
