"""Runs in the SVM lab: hypervisors at level 1 that break every rule; prints how each run ended, as JSON."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import random_blocks
import svm_code as svm
from guest_code import (
    CODE,
    MEMORY,
    done,
    load,
    rax,
    rdi,
    rdmsr,
    results,
    run_in,
    spec_of,
    store,
    wrmsr,
)
from print_cases import print_cases
from svm_code import BLOCK, EXIT_CODE, INFO_1, INFO_2, RIP, enable, image, keep_field, make_block, vmrun

from nestvmm.nesting import LevelSpec, Tower
from nestvmm.nesting.memory import Region

MIB = 1 << 20
HOLE = 0x3FF00000
CANARY = b"\xa5" * 0x1000
VMMCALL = svm.VMMCALL_CODE


def run(code: bytes, count: int = 8, **options: object) -> dict[str, object]:
    """A tower of level 1 alone."""
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), code, engine="svm", memory=2 * MEMORY, timeout=20)
        with Tower(spec) as tower:
            result = run_in(tower)
            return {"status": result.status, "message": result.message, "kept": results(tower, count)}


def run_blocks(seed: int, count: int, *, wild: bool = False, timeout: float = 120) -> dict[str, object]:
    """A hypervisor at level 2 in the middle of the memory that level 1 has; the rest of it is canaries."""
    code = random_blocks.image(seed, count, wild=wild)
    size = random_blocks.MEMORY_SIZE
    below = LevelSpec("logger", memory=(Region(0, size, size),))
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), code, [below], engine="svm", machine="pc", memory=3 * size, timeout=timeout)
        with Tower(spec) as tower:
            for at in (*range(0, size, 0x1000), *range(2 * size, 3 * size, 0x1000)):
                tower.memory[1].write(at, CANARY)
            result = run_in(tower)
            after = tower.memory[2].read(CODE, len(code))
            around = tower.memory[1].read(0, size) + tower.memory[1].read(2 * size, size)
            return {
                "status": result.status,
                "message": result.message,
                "counts": results(tower, random_blocks.COUNTS),
                "changed": random_blocks.changed(code, after),
                "canaries": around == CANARY * (len(around) // len(CANARY)),
            }


def maps_in_a_hole() -> dict[str, object]:
    """Where a map has no memory everything is intercepted."""
    fields = {svm.FIRST_VECTOR: svm.IOIO | svm.MSR | svm.SHUTDOWN, svm.IOPM_BASE: HOLE, svm.MSRPM_BASE: HOLE}
    code = enable() + make_block(fields) + vmrun() + keep_field(0, EXIT_CODE) + load(BLOCK + INFO_2)
    code += svm.store_rax(BLOCK + RIP) + vmrun() + keep_field(1, EXIT_CODE) + keep_field(2, INFO_1)
    return run(image(code + done(), b"\xe6\x80" + rdmsr(svm.EFER)))


def its_own_host_state() -> dict[str, object]:
    """VM_HSAVE_PA's page as a block, and a block as VM_HSAVE_PA's page."""
    code = enable() + vmrun(svm.HSAVE) + keep_field(0, EXIT_CODE, svm.HSAVE) + make_block()
    code += wrmsr(svm.VM_HSAVE_PA, BLOCK) + vmrun() + keep_field(1, EXIT_CODE) + keep_field(2, RIP)
    return run(image(code + done(), VMMCALL))


def its_own_state() -> dict[str, object]:
    """The block's guest is the hypervisor itself, where it does VMRUN: every level does that again."""
    code = enable() + make_block({RIP: CODE, svm.RSP: 0x118000, svm.FIRST_VECTOR: svm.SHUTDOWN}) + vmrun()
    return run(image(code + done(), VMMCALL))


def code_as_a_block() -> dict[str, object]:
    code = enable() + vmrun(svm.GUEST) + keep_field(0, EXIT_CODE, svm.GUEST)
    return run(image(code + done(), VMMCALL * 200))


def tables_in_a_hole() -> dict[str, object]:
    """The guest's own page tables, by CR3."""
    return run(image(enable() + make_block({svm.CR3: HOLE}) + vmrun() + keep_field(0, EXIT_CODE) + done(), VMMCALL))


def code_in_a_hole() -> dict[str, object]:
    code = enable() + make_block({RIP: HOLE, svm.EXCEPTIONS: 1 << 6}) + vmrun() + keep_field(0, EXIT_CODE)
    return run(image(code + keep_field(1, RIP) + done(), VMMCALL))


def shutdown(intercepts: int) -> dict[str, object]:
    """The guest has no IDT."""
    fields = {svm.FIRST_VECTOR: intercepts, svm.IDTR: 0}
    return run(image(enable() + make_block(fields) + vmrun() + keep_field(0, EXIT_CODE) + done(), b"\x0f\x0b"))


def shutdown_after() -> dict[str, object]:
    """The hypervisor's own, after its guest ran."""
    ruin = store(0x118000, 0) + rdi(0x118000) + b"\x0f\x01\x1f\x0f\x0b"  # lidt, ud2
    return run(image(enable() + make_block() + vmrun() + ruin, VMMCALL))


def endless() -> dict[str, object]:
    """The guest's first instruction exits, and is run again for ever."""
    again = b"\x0f\x01\xd8\xeb\xfb"
    code = enable() + make_block() + rax(BLOCK) + again
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), image(code, VMMCALL), engine="svm", memory=2 * MEMORY, timeout=2)
        with Tower(spec) as tower:
            result = run_in(tower)
            return {"status": result.status, "message": result.message}


CASES = {
    "maps in a hole": maps_in_a_hole,
    "its own host state": its_own_host_state,
    "its own state": its_own_state,
    "code as a block": code_as_a_block,
    "tables in a hole": tables_in_a_hole,
    "code in a hole": code_in_a_hole,
    "shutdown": lambda: shutdown(svm.SHUTDOWN),
    "shutdown that nobody intercepts": lambda: shutdown(0),
    "shutdown of its own": shutdown_after,
    "endless": endless,
    "random": lambda: run_blocks(1, 5000),
    "wild 1": lambda: run_blocks(2, 300, wild=True, timeout=4),
    "wild 2": lambda: run_blocks(3, 300, wild=True, timeout=4),
    "wild 3": lambda: run_blocks(4, 300, wild=True, timeout=4),
}


if __name__ == "__main__":
    print_cases(CASES, sys.argv[1:])
