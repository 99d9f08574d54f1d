"""What instructions do with a trap flag that is L0's, and that level n's registers show nothing of it afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from test_fetch import LMA, LONG, Machine, P

from nestvmm._native import ffi, lib

TF = 1 << 8
R11, RFLAGS = lib.NV_REG_R11, lib.NV_REG_RFLAGS
NO_VCPU = -1

KINDS = {
    "90": lib.NV_TRAPPED_PLAIN,
    "0fa2": lib.NV_TRAPPED_PLAIN,
    "cc": lib.NV_TRAPPED_PLAIN,  # #BP is intercepted
    "f4": lib.NV_TRAPPED_HALTS,
    "cd55": lib.NV_TRAPPED_INTERRUPTS,
    "f1": lib.NV_TRAPPED_BREAKS,
    "9c": lib.NV_TRAPPED_PUSHES,
    "669c": lib.NV_TRAPPED_PUSHES,
    "9d": lib.NV_TRAPPED_LOADS,
    "48cf": lib.NV_TRAPPED_LOADS,
    "0f05": lib.NV_TRAPPED_CALLS,
    "480f07": lib.NV_TRAPPED_RETURNS,
    "8ed09c": lib.NV_TRAPPED_PUSHES,  # MOV SS and PUSHF
    "8e54240848cf": lib.NV_TRAPPED_LOADS,  # MOV SS from memory, and IRETQ
    "8ed89c": lib.NV_TRAPPED_PLAIN,  # MOV DS
    "8ed0cd55": lib.NV_TRAPPED_PLAIN,
    "8ed0f4": lib.NV_TRAPPED_PLAIN,
    "f0f4": lib.NV_TRAPPED_PLAIN,  # LOCK: #UD
    "66f0cd55": lib.NV_TRAPPED_PLAIN,
    "f0fb": lib.NV_TRAPPED_PLAIN,
    "8ed0f09c": lib.NV_TRAPPED_PLAIN,
}


def look(code: str, **state: int) -> Any:
    machine = Machine([0x5000 | P], {0x5010: bytes.fromhex(code).ljust(32, b"\xf4")})
    trap = ffi.new("struct nv_trap_flag *")
    lib.nv_trap_look(trap, machine.paging.c, ffi.new("struct nv_code *", {**LONG, "rip": 0x10, **state}))
    return trap


@pytest.mark.parametrize("code", KINDS)
def test_the_kind_of_an_instruction(code: str) -> None:
    assert look(code).kind == KINDS[code]


def test_the_vector_and_the_length_of_an_interrupt() -> None:
    trap = look("f2cd80")
    assert (trap.kind, trap.vector, trap.length) == (lib.NV_TRAPPED_INTERRUPTS, 0x80, 3)
    assert look("f1").length == 1


def test_without_long_mode_syscall_knows_no_flags() -> None:
    assert look("0f05", bits=32, efer=LONG["efer"] & ~LMA, cr0=0, rip=0x5010).kind == lib.NV_TRAPPED_PLAIN


def test_what_cannot_be_fetched_is_plain() -> None:
    assert look("9c", rip=0x1000).kind == lib.NV_TRAPPED_PLAIN


@pytest.mark.parametrize(
    ("kind", "before", "loaded", "after", "own"),
    [
        ("PLAIN", 0x2, 0, 0x2, 0),
        ("PLAIN", 0x102, 0, 0x102, 1),
        ("PUSHES", 0x2, 0, 0x2, 0),
        ("LOADS", 0x2, 0x102, 0x102, 0),  # which is the guest's: its trap comes an instruction later
        ("LOADS", 0x102, 0x2, 0x2, 1),
    ],
)
def test_the_flag_afterwards(kind: str, before: int, loaded: int, after: int, own: int) -> None:
    regs = ffi.new("uint64_t[18]")
    regs[RFLAGS] = before
    trap = ffi.new("struct nv_trap_flag *", {"kind": getattr(lib, f"NV_TRAPPED_{kind}")})
    lib.nv_trap_set(trap, NO_VCPU, regs)
    assert regs[RFLAGS] == before | TF
    if loaded:
        regs[RFLAGS] = loaded
    lib.nv_trap_clear(trap, NO_VCPU, regs, 1)
    assert (regs[RFLAGS], trap.own) == (after, own)


@pytest.mark.parametrize(("executed", "flags"), [(0, 2), (1, 2)])
@pytest.mark.parametrize("steps", [0, TF])
def test_sysret_loads_what_r11_had(executed: int, flags: int, steps: int) -> None:
    regs = ffi.new("uint64_t[18]")
    regs[RFLAGS], regs[R11] = 2, flags | steps
    trap = ffi.new("struct nv_trap_flag *", {"kind": lib.NV_TRAPPED_RETURNS})
    lib.nv_trap_set(trap, NO_VCPU, regs)
    assert regs[R11] == flags | TF
    if executed:
        regs[RFLAGS] = regs[R11]
    lib.nv_trap_clear(trap, NO_VCPU, regs, executed)
    assert regs[R11] == flags | steps
    assert (regs[RFLAGS], trap.own) == ((flags | steps, bool(steps)) if executed else (2, 0))


def test_pushed_flags_lose_it() -> None:
    machine = Machine([0x5000 | P | 2], {0x5100: b"\xff" * 8})
    lib.nv_trap_clean(machine.paging.c, ffi.new("struct nv_code *", LONG), 0, 0, 0x100)
    assert machine.read(0x5100, 4) == b"\xff\xfe\xff\xff"
    narrow = ffi.new("struct nv_code *", {**LONG, "bits": 16})
    lib.nv_trap_clean(machine.paging.c, narrow, 0x100, 0, 0xABCD0004)
    assert machine.read(0x5100, 8) == b"\xff\xfe\xff\xff\xff\xfe\xff\xff"
