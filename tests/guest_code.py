"""Guests for tests, put together by hand: 64-bit machine code as a raw binary, and the tower that runs it.

A guest keeps what it got in `RESULTS`, eight bytes each, so that a test reads it from the level's memory afterwards.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from patience import PATIENCE

from nestvmm.nesting import GuestSpec, LevelSpec, Runner, RunResult, Tower, TowerSpec

CODE = 0x100000
IDT = 0x110000
HANDLERS = 0x112000
RESULTS = 0x120000
MEMORY = 2 << 20
CODE_SELECTOR = 0x10

UD2 = b"\x0f\x0b"
STI = b"\xfb"
CLI = b"\xfa"
HLT = b"\xf4"
NOP = b"\x90"
IRETQ = b"\x48\xcf"
FOREVER = b"\xeb\xfe"
PUSH_RAX = b"\x50"
POP_RAX = b"\x58"
DROP_ERROR_CODE = b"\x48\x83\xc4\x08"  # add $8, %rsp
# popcnt %rbx, %rax, which KVM-PVM cannot emulate at CPL 0
POPCNT = b"\xf3\x48\x0f\xb8\xc3"

_IN = {1: b"\xec", 2: b"\x66\xed", 4: b"\xed"}
_OUT = {1: b"\xee", 2: b"\x66\xef", 4: b"\xef"}
_INS = {1: b"\xf3\x6c", 2: b"\x66\xf3\x6d", 4: b"\xf3\x6d"}
_OUTS = {1: b"\xf3\x6e", 2: b"\x66\xf3\x6f", 4: b"\xf3\x6f"}
_LOAD = {1: b"\x8a\x07", 2: b"\x66\x8b\x07", 4: b"\x8b\x07", 8: b"\x48\x8b\x07"}
_STORE = {1: b"\x88\x07", 2: b"\x66\x89\x07", 4: b"\x89\x07", 8: b"\x48\x89\x07"}


def rax(value: int) -> bytes:
    return b"\x48\xb8" + struct.pack("<Q", value)


def rbx(value: int) -> bytes:
    return b"\x48\xbb" + struct.pack("<Q", value)


def rcx(value: int) -> bytes:
    return b"\x48\xb9" + struct.pack("<Q", value)


def rdx(value: int) -> bytes:
    return b"\x48\xba" + struct.pack("<Q", value)


def rsi(value: int) -> bytes:
    return b"\x48\xbe" + struct.pack("<Q", value)


def rdi(value: int) -> bytes:
    return b"\x48\xbf" + struct.pack("<Q", value)


def inp(port: int, size: int = 1) -> bytes:
    """RAX = what IN gives, its upper bytes zero."""
    return rax(0) + rdx(port) + _IN[size]


def out(port: int, value: int, size: int = 1) -> bytes:
    return rax(value) + rdx(port) + _OUT[size]


def ins(port: int, address: int, count: int, size: int = 1) -> bytes:
    return rdx(port) + rdi(address) + rcx(count) + _INS[size]


def outs(port: int, address: int, count: int, size: int = 1) -> bytes:
    return rdx(port) + rsi(address) + rcx(count) + _OUTS[size]


def load(address: int, size: int = 8) -> bytes:
    """RAX = memory, its upper bytes zero."""
    return rax(0) + rdi(address) + _LOAD[size]


def store(address: int, value: int, size: int = 8) -> bytes:
    return rax(value) + rdi(address) + _STORE[size]


def rdmsr(index: int) -> bytes:
    """RAX = the MSR."""
    return rcx(index) + b"\x0f\x32" + b"\x48\xc1\xe2\x20" + b"\x48\x09\xd0"  # shl $32, %rdx; or %rdx, %rax


def wrmsr(index: int, value: int) -> bytes:
    return rcx(index) + rax(value & 0xFFFFFFFF) + rdx(value >> 32) + b"\x0f\x30"


def keep(number: int) -> bytes:
    """RAX goes to result `number`; changes RDI."""
    return rdi(RESULTS + 8 * number) + _STORE[8]


def keep_rbx(number: int) -> bytes:
    """RBX goes to result `number`; changes RDI."""
    return rdi(RESULTS + 8 * number) + b"\x48\x89\x1f"


def add(number: int, value: int = 1) -> bytes:
    """Adds up to 127 to result `number`; changes nothing but flags."""
    return b"\x57" + rdi(RESULTS + 8 * number) + b"\x48\x83\x07" + bytes([value]) + b"\x5f"


def until(number: int) -> bytes:
    """Waits, running, until result `number` is not zero; changes RDI."""
    return rdi(RESULTS + 8 * number) + b"\xf3\x90\x48\x83\x3f\x00\x74\xf8"  # pause; cmpq $0, (%rdi); je


def cpuid(leaf: int, subleaf: int = 0) -> bytes:
    """RAX to RDX = the leaf's registers."""
    return rax(leaf) + rcx(subleaf) + b"\x0f\xa2"


def keep_all(number: int) -> bytes:
    """RAX, RBX, RCX and RDX go to four results from `number` on; changes RDI."""
    stores = (b"\x48\x89\x07", b"\x48\x89\x5f\x08", b"\x48\x89\x4f\x10", b"\x48\x89\x57\x18")
    return rdi(RESULTS + 8 * number) + b"".join(stores)


def handler(body: bytes) -> bytes:
    """An interrupt's handler: `body` may change RAX, RDX and RDI."""
    return b"\x50\x52\x57" + body + b"\x5f\x5a\x58" + IRETQ


def wakes(body: bytes, number: int, before: bytes = b"") -> bytes:
    """The handler of the one interrupt that ends HLT behind STI. Came it before HLT, the guest begins anew at CODE.

    QEMU's VMRUN does not load the interrupt shadow (helper_vmrun in its svm_helper.c). When its kvm_amd is interrupted
    between the two, once in some 500 ticks of a busy lab, the interrupt comes before HLT, and nothing ends that.
    Result `number` counts these, behind which `before` comes, that may change RAX and RDX.
    """
    anew = add(number) + before + b"\x48\xc7\x04\x24" + struct.pack("<I", CODE) + IRETQ  # movq $CODE, (%rsp)
    behind = b"\x50\x48\x8b\x44\x24\x08\x80\x38" + HLT + POP_RAX  # push %rax; mov 8(%rsp), %rax; cmpb $HLT, (%rax)
    return behind + b"\x0f\x85" + struct.pack("<i", len(anew)) + anew + body  # jne


def pic(mask: int, base: int = 32) -> bytes:
    """Programs the PICs: line n of the first is vector base + n; lines with a bit in `mask` stay off."""
    first = out(0x20, 0x11) + out(0x21, base) + out(0x21, 4) + out(0x21, 1) + out(0x21, mask)
    return first + out(0xA0, 0x11) + out(0xA1, base + 8) + out(0xA1, 2) + out(0xA1, 1) + out(0xA1, 0xFF)


END_OF_INTERRUPT = out(0x20, 0x20)


def done(status: int = 0) -> bytes:
    """The debug exit."""
    return out(0xF4, status)


def loop(body: bytes) -> bytes:
    """`body` for ever."""
    return body + b"\xe9" + struct.pack("<i", -(len(body) + 5))


def repeat(count: int, body: bytes) -> bytes:
    """`body` so many times; it leaves RBP alone."""
    counted = body + b"\x48\xff\xcd"  # dec %rbp
    return b"\x48\xbd" + struct.pack("<Q", count) + counted + b"\x0f\x85" + struct.pack("<i", -(len(counted) + 6))


def with_handlers(code: bytes, handlers: Mapping[int, bytes], at: int = CODE) -> bytes:
    """An image for address `at` that loads an IDT with these vectors' handlers, then runs `code`.

    A handler ends by IRETQ, and drops the error code first where its vector has one. With `at` 0 the image is for CODE.
    """
    start = b"\x0f\x01\x1c\x25" + struct.pack("<I", IDT + 0x1000)  # lidt IDT + 0x1000
    image = bytearray((start + code).ljust(HANDLERS - at, b"\x90"))
    if len(start + code) > IDT - at:
        raise ValueError("the code reaches into its IDT")
    for vector, handler in handlers.items():
        address = at + len(image)
        image += handler
        gate = struct.pack("<HHBBHII", address & 0xFFFF, CODE_SELECTOR, 0, 0x8E, address >> 16 & 0xFFFF, 0, 0)
        image[IDT - at + 16 * vector : IDT - at + 16 * vector + 16] = gate
    image[IDT - at + 0x1000 : IDT - at + 0x100A] = struct.pack("<HQ", 0xFFF, IDT)
    absent = b"\0" * 16
    for vector in set(range(256)) - set(handlers):
        image[IDT - at + 16 * vector : IDT - at + 16 * vector + 16] = absent
    return bytes(image)


def spec_of(
    folder: Path,
    code: bytes,
    levels: Sequence[str | LevelSpec] = (),
    *,
    machine: str = "auto",
    unclaimed: str = "ignore",
    designate: Sequence[str] = (),
    timeout: float | None = PATIENCE,
    memory: int = MEMORY,
    engine: str = "auto",
    io_intercepts: bool = False,
) -> TowerSpec:
    """A tower whose guest is `code` at CODE, a file in `folder`."""
    kernel = folder / "guest.bin"
    kernel.write_bytes(code)
    return TowerSpec(
        GuestSpec(kernel, address=CODE, memory=memory),
        tuple(LevelSpec(level) if isinstance(level, str) else level for level in levels),
        tuple(designate),
        engine=engine,
        machine=machine,
        unclaimed=unclaimed,
        timeout=timeout,
        io_intercepts=io_intercepts,
    )


def results(tower: Tower, count: int, level: int | None = None) -> list[int]:
    """What the guest kept, as level n's memory has it."""
    data = tower.memory[level or tower.height].read(RESULTS, 8 * count)
    return list(struct.unpack(f"<{count}Q", data))


def run_in(tower: Tower, stdin: int | None = None) -> RunResult:
    return Runner(tower).run(stdin=stdin)


def run_with_output(spec: TowerSpec, during: Callable[[Tower], None] | None = None) -> tuple[RunResult, bytes]:
    """Runs a tower whose L0 console is a pipe; gives all that it wrote."""
    reader, writer = os.pipe()
    output = bytearray()

    def read() -> None:
        while data := os.read(reader, 65536):
            output.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with Tower(spec, stdout=writer) as tower:
            if during is not None:
                during(tower)
            result = run_in(tower)
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
    return result, bytes(output)
