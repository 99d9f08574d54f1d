"""Handlers declared per reason and qualifier."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nestvmm.hypervisors import (
    Direction,
    Event,
    ExitReason,
    Hypervisor,
    Result,
    on,
    on_debug,
    on_instruction,
    on_io,
    on_mmio,
    on_rdmsr,
    on_wrmsr,
)

ALL = (1 << 64) - 1


class Everything(Hypervisor):
    @on_io(0x60)
    @on_io(0x3F8, 8, direction=Direction.WRITE)
    def ports(self, event: Event) -> Result:
        return Result.read(1)

    @on_mmio(0xD0000000, 0x1000, Direction.READ)
    def area(self, event: Event) -> Result:
        return Result.read(2)

    @on_rdmsr(0x10)
    @on_wrmsr(0x10, 0x1F)
    def msrs(self, event: Event) -> Result:
        return Result.read(3)

    @on_debug(3)
    def breakpoint(self, event: Event) -> Result:
        return Result.read(4)

    @on_instruction(b"\x0f\xb8")
    @on_instruction(b"\x01\x02\x03\x04\x05\x06\x07\x08")
    def instruction(self, event: Event) -> Result:
        return Result.read(5)

    @on(ExitReason.HLT)
    def halt(self, event: Event) -> Result:
        return Result.read(6)


class Narrower(Everything):
    """Overrides one handler without declaring it again, and one with another range."""

    def halt(self, event: Event) -> Result:
        return Result.read(7)

    @on_debug(1)
    def breakpoint(self, event: Event) -> Result:
        return Result.read(8)


def claims(hypervisor: Hypervisor) -> set[tuple[ExitReason, int, int, Direction | None, int]]:
    """What it claims; of each handler what it answers."""
    event = Event(ExitReason.IO, 1)
    return {
        (reason, first, last, way, handler(event).value) for reason, first, last, way, handler in hypervisor.claims()
    }


def test_each_declaration_is_a_claim() -> None:
    assert claims(Everything()) == {
        (ExitReason.IO, 0x60, 0x60, None, 1),
        (ExitReason.IO, 0x3F8, 0x3FF, Direction.WRITE, 1),
        (ExitReason.MMIO, 0xD0000000, 0xD0000FFF, Direction.READ, 2),
        (ExitReason.RDMSR, 0x10, 0x10, None, 3),
        (ExitReason.WRMSR, 0x10, 0x1F, None, 3),
        (ExitReason.DEBUG, 3, 3, None, 4),
        (ExitReason.EMULATION_FAILURE, 0x0FB8 << 48, (0x0FB9 << 48) - 1, None, 5),
        (ExitReason.EMULATION_FAILURE, 0x0102030405060708, 0x0102030405060708, None, 5),
        (ExitReason.HLT, 0, ALL, None, 6),
    }


def test_an_overriding_method_declares_anew() -> None:
    found = claims(Narrower())
    assert (ExitReason.DEBUG, 1, 1, None, 8) in found
    assert not {one for one in found if one[0] in (ExitReason.HLT,) or one[1] == 3}


def test_nothing_declared_is_nothing_claimed() -> None:
    assert list(Hypervisor().claims()) == []
    assert Hypervisor().designated(Event(ExitReason.IO, 1)) == Result.declined()
    assert Hypervisor().receive(b"abc") == 0


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: on_io(-1), "ports -0x1"),
        (lambda: on_io(0x10000), "ports 0x10000"),
        (lambda: on_io(0xFFFF, 2), "ports 0xffff"),
        (lambda: on_io(5, 0), "ports 0x5"),
        (lambda: on_mmio(-1, 5), "addresses -0x1"),
        (lambda: on_mmio(0, 0), "addresses 0x0"),
        (lambda: on_mmio((1 << 52) - 1, 2), "are not within 52 bits"),
        (lambda: on_rdmsr(-1), "MSRs -0x1 to -0x1 are not within 0 to 0xffffffff"),
        (lambda: on_wrmsr(1 << 32), "MSRs 0x100000000 to 0x100000000 are not within"),
        (lambda: on_rdmsr(5, 4), "MSRs 0x5 to 0x4 are not within"),
        (lambda: on_debug(2), "debug vector 2 is neither 1 nor 3"),
        (lambda: on_instruction(b""), "an instruction prefix has 1 to 8 bytes, not 0"),
        (lambda: on_instruction(bytes(9)), "an instruction prefix has 1 to 8 bytes, not 9"),
        (lambda: on(ExitReason.IO, 5, 4), "qualifiers 0x5 to 0x4 are no range"),
        (lambda: on(ExitReason.IO, 0, 1 << 64), "are no range of 64-bit numbers"),
    ],
)
def test_what_could_never_happen_cannot_be_declared(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declare()
