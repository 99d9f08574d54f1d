"""Which instruction an exit was for, from level n's memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import guest_code as guest
import pytest

from nestvmm.kvm import Segment, Sregs
from nestvmm.trace.instruction import Found, InstructionFinder, Stopped
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason

CODE = 0x1000
READ, WRITE = Direction.READ, Direction.WRITE


class Memory:
    """An engine and its paging: identity-mapped code at CODE, nothing elsewhere."""

    def __init__(self, code: bytes, bits: int = 64) -> None:
        self.code = code
        self.paging = self
        self.bits = bits
        self.user: bool | None = None

    def sregs(self) -> Sregs:
        segment = Segment(l=int(self.bits == 64), db=int(self.bits == 32))
        return Sregs(efer=0x500 if self.bits == 64 else 0, cr0=1, cs=segment, ss=Segment(dpl=3))

    def fetch(self, sregs: Sregs, linear: int, size: int, *, user: bool) -> bytes:
        self.user = user
        offset = linear - CODE
        return self.code[offset : offset + size] if 0 <= offset < len(self.code) else b""


def find(code: bytes, offset: int, *stopped: Any, bits: int = 64) -> Found:
    return finder(code, bits).find(Stopped(*stopped, CODE + offset, b""))


def finder(code: bytes, bits: int = 64) -> InstructionFinder:
    engine: Any = Memory(code, bits)
    return InstructionFinder(engine)


@pytest.mark.parametrize(
    ("reason", "direction", "size", "before", "instruction", "text"),
    [
        (ExitReason.IO, READ, 1, b"", b"\xec", "in al,dx"),
        (ExitReason.IO, READ, 2, b"", b"\x66\xed", "in ax,dx"),
        (ExitReason.IO, READ, 4, b"\xb8\x66\x66\x66\x66", b"\xed", "in eax,dx"),
        (ExitReason.IO, WRITE, 1, b"", b"\xe6\x80", "out 80h,al"),
        (ExitReason.IO, READ, 2, b"", b"\xf3\x66\x6d", "rep insw [rdi],dx"),
        (ExitReason.IO, WRITE, 4, b"", b"\xf3\x6f", "rep outsd dx,[rsi]"),
        (ExitReason.MMIO, READ, 4, b"\x48\x89\xc8", b"\x8b\x07", "mov eax,[rdi]"),
        (ExitReason.MMIO, WRITE, 8, b"\x31\xc0", b"\x48\x89\x07", "mov [rdi],rax"),
        (ExitReason.MMIO, WRITE, 4, b"\x90\x90\x90", b"\xc7\x07\x01\x00\x00\x00", "mov dword ptr [rdi],1"),
        (ExitReason.RDMSR, READ, 8, b"\x90", b"\x0f\x32", "rdmsr"),
        (ExitReason.WRMSR, WRITE, 8, b"\x90", b"\x0f\x30", "wrmsr"),
    ],
)
@pytest.mark.parametrize("behind", [False, True], ids=["at", "behind"])
def test_at_or_behind(
    reason: ExitReason, direction: Direction, size: int, before: bytes, instruction: bytes, text: str, behind: bool
) -> None:
    front = guest.rdx(0x3F8) + before
    code = front + instruction + guest.rax(0)
    found = find(code, len(front) + behind * len(instruction), reason, direction, size)
    assert found == (CODE + len(front), text)


def test_hlt_is_behind_rip_though_the_engine_gives_its_byte() -> None:
    stopped = Stopped(ExitReason.HLT, READ, 0, CODE + 2, b"\xf4")
    assert finder(b"\xfb\xf4\xeb\xfc").find(stopped) == (CODE + 1, "hlt")


def test_bytes_that_the_engine_gives_are_at_rip() -> None:
    stopped = Stopped(ExitReason.EMULATION_FAILURE, Direction.EXECUTE, 0, 0x7777, b"\xf3\x48\x0f\xb8\xc3")
    assert finder(b"").find(stopped) == (0x7777, "popcnt rax,rbx")


@pytest.mark.parametrize("behind", [False, True], ids=["at", "behind"])
def test_a_row_of_equal_instructions_is_told_by_the_others(behind: bool) -> None:
    code = b"\x90\xee\xee\xee\x90"
    one = finder(code)
    first = 1 + behind  # RIP at the first OUT, or behind it
    # the ends of the row tell
    assert one.find(Stopped(ExitReason.IO, WRITE, 1, CODE + (4 if behind else 1), b"")).text == "out dx,al"
    for number in range(2):
        if not behind or number:
            rip = CODE + first + number
            assert one.find(Stopped(ExitReason.IO, WRITE, 1, rip, b"")).rip == rip - behind


@pytest.mark.parametrize(
    ("code", "reason", "size"),
    [
        (b"\x90" * 40, ExitReason.IO, 1),
        (b"\xed" * 40, ExitReason.IO, 1),
        (b"\x31\xc0" * 20, ExitReason.MMIO, 4),
        (b"\x06" * 40, ExitReason.MMIO, 4),
        (b"", ExitReason.IO, 1),
    ],
    ids=["another", "another size", "no memory operand", "no instruction", "no memory"],
)
def test_what_does_not_fit_is_not_shown(code: bytes, reason: ExitReason, size: int) -> None:
    assert find(code, 20, reason, READ, size) == (CODE + 20, "")


@pytest.mark.parametrize("reason", [ExitReason.INTERRUPT, ExitReason.NMI_WINDOW, ExitReason.SHUTDOWN])
def test_events_that_no_instruction_makes(reason: ExitReason) -> None:
    assert find(b"\xee" * 40, 20, reason, READ, 0) == (CODE + 20, "")


def test_an_unknown_rip() -> None:
    stopped = Stopped(ExitReason.IO, READ, 1, 0, b"")
    assert finder(b"\xec").find(stopped) == (0, "")


@pytest.mark.parametrize(("bits", "text"), [(16, "mov ax,[bx]"), (32, "mov eax,[edi]")])
def test_other_modes(bits: int, text: str) -> None:
    assert find(b"\x8b\x07", 0, ExitReason.MMIO, READ, bits // 8, bits=bits).text == text


def test_code_is_fetched_with_the_guests_rights() -> None:
    memory = Memory(b"\xec")
    engine: Any = SimpleNamespace(sregs=memory.sregs, paging=memory)
    InstructionFinder(engine).find(Stopped(ExitReason.IO, READ, 1, CODE, b""))
    assert memory.user is True
