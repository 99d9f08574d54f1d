"""Completing instructions: batches, code and page tables that the guest changes in between, faults and refusals."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator

import pytest
from cpl_machine import CODE, DATA, DATA_SIZE, PML4, STACK, TABLES, UNBACKED, Machine, State

from nestvmm.engines.completion import BATCH
from nestvmm.x86.event import HANDLED, Outcome, Result

pytestmark = pytest.mark.kvm

POPCNT_RAX_RBX = b"\xf3\x48\x0f\xb8\xc3"
ADDPS = b"\x0f\x58\xc1"  # addps %xmm1, %xmm0
LOAD = b"\xf3\x0f\x6f\x06"  # movdqu (%rsi), %xmm0
STORE = b"\xf3\x0f\x7f\x06"  # movdqu %xmm0, (%rsi)
INCREMENT = b"\x48\xff\xc0"
# IN, OUT, INS, OUTS, HLT, CPUID, RDTSC, MSRs, CRs, DRs, descriptor tables, interrupts, far transfers and so on
FOR_KVM = [
    "ec",
    "ee",
    "6c",
    "6e",
    "f4",
    "0fa2",
    "0f31",
    "0f32",
    "0f30",
    "0f20c0",
    "0f22c0",
    "0f01d0",
    "cd80",
    "48cf",
    "0f05",
    "0f07",
    "0f0110",
    "0f0118",
    "0f0138",
    "fa",
    "fb",
    "9c",
    "9d",
    "0f01f8",
    "48cb",
    "8ed8",
    "0f00d8",
    "f3a4",
    "0fae06",
    "0f09",
    "0f08",
    "0f01c8",
    "0f01d8",
    "660f38820e",
    "0fc733",
    "0f21c0",
    "0f23c0",
    "8cd8",
    "0f0100",
    "0f01f9",
]


def to_start(code: bytes) -> bytes:
    """The code, and a jump back to its beginning."""
    return code + b"\xe9" + struct.pack("<i", -(len(code) + 5))


def state(**regs: int) -> State:
    area = bytearray(832)
    struct.pack_into("<H", area, 0, 0x37F)
    struct.pack_into("<I", area, 24, 0x1F80)
    struct.pack_into("<4f", area, 160, 1, 2, 3, 4)
    struct.pack_into("<4f", area, 176, 0.5, 0.25, 0.125, 0)
    area[512] = 3
    return State(regs, bytes(area), bytes(DATA_SIZE))


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        machine.engine.completer.limit = 1
        yield machine


def xmm0(machine: Machine) -> tuple[float, ...]:
    values: tuple[float, ...] = struct.unpack_from("<4f", machine.vcpu.get_xsave(), 160)
    return values


def test_one_instruction(machine: Machine) -> None:
    machine.prepare(POPCNT_RAX_RBX, state(rbx=0xFF00FF), 0)
    assert machine.engine.complete() == HANDLED
    regs = machine.engine.regs()
    assert (regs.rax, regs.rip) == (16, CODE + len(POPCNT_RAX_RBX))
    assert machine.engine.completer.total == 1


def test_vector_registers_go_in_and_out(machine: Machine) -> None:
    machine.prepare(ADDPS, state(), 0)
    assert machine.engine.complete() == HANDLED
    assert xmm0(machine) == (1.5, 2.25, 3.125, 4)


def test_a_loop_is_one_batch(machine: Machine) -> None:
    machine.prepare(to_start(ADDPS + INCREMENT), state(), 0)
    machine.engine.completer.limit = 3000
    assert machine.engine.complete() == HANDLED
    assert machine.engine.completer.total == 3000
    assert machine.engine.regs().rax == 1000


def test_a_batch_stops_before_what_is_for_kvm(machine: Machine) -> None:
    machine.prepare(ADDPS + INCREMENT + b"\x0f\xa2", state(), 0)
    machine.engine.completer.limit = BATCH
    assert machine.engine.complete() == HANDLED
    assert machine.engine.completer.total == 2
    assert machine.engine.regs().rip == CODE + 6


@pytest.mark.parametrize("code", FOR_KVM)
def test_what_is_for_kvm_is_declined(machine: Machine, code: str) -> None:
    machine.prepare(bytes.fromhex(code), state(rsi=DATA, rdi=DATA, rax=DATA), 0)
    before = machine.engine.regs()
    result = machine.engine.complete()
    assert result.outcome is Outcome.DECLINED
    assert result.message
    assert machine.engine.regs() == before


def test_a_kick_ends_a_batch(machine: Machine) -> None:
    machine.prepare(to_start(ADDPS), state(), 0)
    engine = machine.engine
    engine.completer.limit = 2_000_000_000
    kick = threading.Timer(0.1, engine.kick)
    kick.start()
    started = time.thread_time()
    assert engine.complete() == HANDLED
    kick.join()
    assert 0 < engine.completer.total < 2_000_000_000
    assert time.thread_time() - started < 20


def test_code_that_the_guest_rewrites_in_a_batch(machine: Machine) -> None:
    """movb $0xc8, 3 bytes on: inc %eax becomes dec %eax before it is reached, and back in the next round."""
    code = b"\x80\x35\x01\x00\x00\x00\x08" + b"\xff\xc0"  # xorb $8, 1(%rip); inc %eax
    machine.prepare(to_start(code), state(), 0)
    machine.engine.completer.limit = 3
    for expected in (0xFFFFFFFF, 0, 0xFFFFFFFF, 0):
        assert machine.engine.complete() == HANDLED
        assert machine.engine.regs().rax == expected


def test_code_that_changed_between_two_batches(machine: Machine) -> None:
    machine.prepare(POPCNT_RAX_RBX, state(rbx=7, rcx=1), 0)
    assert machine.engine.complete() == HANDLED
    machine.prepare(b"\xf3\x48\x0f\xb8\xc1", state(rbx=7, rcx=1), 0)  # popcnt %rcx, %rax
    assert machine.engine.complete() == HANDLED
    assert machine.engine.regs().rax == 1


def test_page_tables_that_changed_between_two_batches(machine: Machine) -> None:
    machine.prepare(to_start(LOAD), state(rsi=DATA), 0)
    machine.write(DATA, struct.pack("<4f", 1, 1, 1, 1))
    machine.write(DATA + 0x1000, struct.pack("<4f", 2, 2, 2, 2))
    machine.engine.completer.limit = 2
    assert machine.engine.complete() == HANDLED
    assert xmm0(machine) == (1, 1, 1, 1)
    entry = TABLES + 8 * (DATA // 0x1000)
    machine.write(entry, struct.pack("<Q", DATA + 0x1000 | 7))
    assert machine.engine.complete() == HANDLED
    assert xmm0(machine) == (2, 2, 2, 2)
    machine.write(entry, bytes(8))
    assert machine.engine.complete() == Result.faulted(14, 0)
    assert machine.engine.sregs().cr2 == DATA


def test_accessed_and_dirty_bits(machine: Machine) -> None:
    machine.prepare(LOAD + STORE, state(rsi=DATA), 0)
    entry = TABLES + 8 * (DATA // 0x1000)
    machine.write(entry, struct.pack("<Q", DATA | 7))
    assert machine.engine.complete() == HANDLED
    assert machine.read(entry, 1) == bytes([7 | 0x20])
    assert machine.engine.complete() == HANDLED
    assert machine.read(entry, 1) == bytes([7 | 0x60])
    assert machine.read(PML4, 1)[0] & 0x20


def test_an_operand_across_two_pages(machine: Machine) -> None:
    at = DATA + 0xFF9
    machine.prepare(STORE, state(rsi=at), 0)
    machine.write(TABLES + 8 * (DATA // 0x1000 + 1), struct.pack("<Q", DATA | 7))  # the next page is the same page
    assert machine.engine.complete() == HANDLED
    stored = struct.pack("<4f", 1, 2, 3, 4)
    assert machine.read(at, 7) == stored[:7]
    assert machine.read(DATA, 9) == stored[7:]


def test_memory_that_nothing_backs_is_named(machine: Machine) -> None:
    machine.prepare(STORE, state(rsi=UNBACKED + 8), 0)
    result = machine.engine.complete()
    assert result.outcome is Outcome.DECLINED
    assert f"{UNBACKED + 8:#x}" in result.message


@pytest.mark.parametrize(
    ("cr0", "code", "vector"),
    [(8, ADDPS, 7), (4, ADDPS, 6), (8, b"\xd8\xc1", 7), (4, b"\xd8\xc1", 7), (4, b"\x0f\xfc\xc1", 6), (8, b"\x9b", 7)],
)
def test_control_bits_forbid_vector_registers(cr0: int, code: bytes, vector: int) -> None:
    with Machine(cr0=cr0) as machine:
        machine.prepare(code, state(), 0)
        assert machine.engine.complete() == Result.faulted(vector)


def test_avx_without_osxsave_is_an_invalid_opcode(machine: Machine) -> None:
    machine.sregs.cr4 &= ~(1 << 18)
    machine.prepare(b"\xc5\xf4\x58\xc2", state(), 0)  # vaddps
    assert machine.engine.complete() == Result.faulted(6)


def test_invalid_instructions_fault(machine: Machine) -> None:
    machine.prepare(b"\x0f\xff\xc0", state(), 0)
    assert machine.engine.complete() == Result.faulted(6)
    machine.prepare(b"\x66" * 15 + b"\x90", state(), 0)
    assert machine.engine.complete() == Result.faulted(13, 0)


def test_an_unmasked_exception_is_the_guests(machine: Machine) -> None:
    before = state()
    area = bytearray(before.area)
    struct.pack_into("<I", area, 24, 0x1F80 & ~0x200)  # division by zero
    area[176:192] = bytes(16)
    machine.prepare(b"\x0f\x5e\xc1", State({}, bytes(area), before.data), 0)  # divps %xmm1, %xmm0
    assert machine.engine.complete() == Result.faulted(19)
    assert xmm0(machine) == (1, 2, 3, 4)
    assert machine.engine.regs().rip == CODE


def test_calls_returns_and_pushes(machine: Machine) -> None:
    # push %rbx; call 1f; hlt; 1: popcnt; pop %rcx; pop %rdx; jmp *%rcx
    code = b"\x53\xe8\x01\x00\x00\x00\xf4" + POPCNT_RAX_RBX + b"\x59\x5a\xff\xe1"
    machine.prepare(code, state(rbx=0xF, rsp=STACK), 0)
    machine.engine.completer.limit = BATCH
    assert machine.engine.complete() == HANDLED
    regs = machine.engine.regs()
    assert (regs.rax, regs.rdx, regs.rsp, regs.rip) == (4, 0xF, STACK, CODE + 6)


def test_kvm_goes_on_where_a_batch_ended(machine: Machine) -> None:
    """Through KVM_RUN: KVM fails to emulate, L0 completes, KVM does the OUT behind it."""
    machine.prepare(ADDPS + POPCNT_RAX_RBX, state(rbx=3), 0)
    engine = machine.engine
    engine.completer.limit = BATCH
    ports = []
    for _ in range(3):
        engine.run()
        if engine.vcpu.event.reason == 1:
            ports.append(engine.vcpu.event.qualifier)
            break
        assert engine.complete() == HANDLED
    assert ports == [0x80]
    assert engine.regs().rax == 2
    assert xmm0(machine) == (1.5, 2.25, 3.125, 4)
