"""Runs in the SVM lab: what software SVM offers though the processor lacks it, and events on their way; prints JSON."""

from __future__ import annotations

import sys
from pathlib import Path

import svm_code as svm
from guest_code import cpuid, done, keep, load, rax, rbx, rcx, rdi, rdmsr, repeat, store, wrmsr
from nested_cases import keep_at, nested_tables, run
from print_cases import print_cases
from svm_code import (
    BLOCK,
    EXIT_CODE,
    INFO_1,
    INFO_2,
    INJECTION,
    NEXT_RIP,
    RIP,
    enable,
    image,
    make_block,
    own_gdt,
    skip,
    vmrun,
)

from nestvmm.hypervisors import Event, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec
from nestvmm.x86.event import Outcome
from nestvmm.x86.exit_reason import ExitReason

HERE = f"{Path(__file__)}:"
VMMCALL = svm.VMMCALL_CODE
LEAF = 0x172008  # of nested_tables: 2 MiB from 2 MiB on
IDT_ENTRY = 0x173000 + 8 * (svm.GUEST_IDT >> 12)  # of nested_tables: the guest's IDT
PAUSE, INT, INVLPG = 1 << 23, 1 << 21, 1 << 25
LBR = 0xB8
AGAIN = store(BLOCK + RIP, svm.GUEST) + store(BLOCK + svm.RSP, svm.GUEST_STACK)
NESTED_PAGING = {svm.NESTED: 1, svm.NESTED_CR3: 0x170000}


def event(kind: int, vector: int, error: int | None = None) -> int:
    return 1 << 31 | kind << 8 | vector | (0 if error is None else 1 << 11 | error << 32)


# Interrupt, NMI, exceptions with and without an error code, INT3 and INTO, and software interrupts.
EVENTS = [
    event(0, 0x20), event(0, 0xFF), event(2, 2), event(3, 6), event(3, 13, 0x5A8), event(3, 17, 0),
    event(3, 3), event(3, 4), event(4, 0x80), event(4, 3),
]  # fmt: skip


def ran(number: int, width: int = 4) -> bytes:
    """Runs; keeps the exit's code, EXITINTINFO, EXITINFO2 and RIP."""
    fields = (EXIT_CODE, svm.INTERRUPTED, INFO_2, RIP)[:width]
    return vmrun() + b"".join(keep_at(width * number + i, at) for i, at in enumerate(fields))


def faults_on_the_way() -> dict[str, object]:
    """The IDT has no memory when the event is delivered; then it has, and the event is injected again."""
    code = enable() + nested_tables() + make_block(NESTED_PAGING) + own_gdt()
    for number, one in enumerate(EVENTS):
        code += AGAIN + store(BLOCK + NEXT_RIP, svm.GUEST + 5) + store(BLOCK + INJECTION, one)
        code += store(IDT_ENTRY, 0) + store(BLOCK + svm.TLB_CONTROL, 1, 1) + ran(2 * number)
        code += store(IDT_ENTRY, svm.GUEST_IDT | 7) + load(BLOCK + svm.INTERRUPTED) + svm.store_rax(BLOCK + INJECTION)
        # at the second run: the vector in RAX, and what is on top of the stack
        code += vmrun() + keep_at(8 * number + 4, EXIT_CODE) + keep_at(8 * number + 5, svm.RAX)
        code += load(BLOCK + svm.RSP) + b"\x48\x8b\x00" + keep(8 * number + 6)
    return run(image(code + done(), b"\x90" * 5 + VMMCALL), 8 * len(EVENTS))


def exceptions_on_the_way() -> dict[str, object]:
    """The IDT has no gates: #GP, which is intercepted, comes of the delivery."""
    code = enable() + make_block({svm.EXCEPTIONS: 1 << 13}) + own_gdt() + store(BLOCK + svm.IDTR, 0)
    for number, one in enumerate(EVENTS):
        code += AGAIN + store(BLOCK + NEXT_RIP, svm.GUEST + 5) + store(BLOCK + INJECTION, one)
        code += vmrun() + keep_at(3 * number, EXIT_CODE) + keep_at(3 * number + 1, svm.INTERRUPTED)
        code += keep_at(3 * number + 2, INFO_1)
    return run(image(code + done(), b"\x90" * 5 + VMMCALL), 3 * len(EVENTS))


def own_interrupts_on_the_way() -> dict[str, object]:
    """INT $0x80 and UD2 of the guest's own, whose IDT has no memory."""
    code = enable() + nested_tables() + make_block(NESTED_PAGING) + own_gdt() + store(IDT_ENTRY, 0)
    code += store(BLOCK + svm.TLB_CONTROL, 1, 1) + ran(0) + store(BLOCK + RIP, svm.GUEST + 2) + ran(1) + done()
    return run(image(code, b"\xcd\x80\x0f\x0b"), 8)


TSS, STACK = 0x190000, 0x1A0000
STACK_ENTRY = 0x173000 + 8 * (STACK - 1 >> 12)
# Of a guest at CPL 3: software interrupts and INT3 by gates for it, and by one for CPL 0.
USER_EVENTS = [event(4, 0x80), event(3, 3), event(4, 0x81)]


def as_user() -> bytes:
    """Makes the block's guest one at CPL 3, with a stack for CPL 0; what level 1 maps is the user's, too."""
    code = b"".join(b"\x80\x0c\x25" + table.to_bytes(4, "little") + b"\4" for table in (0x2000, 0x3000, 0x4000))
    code += store(BLOCK + svm.TR, 0x30 | 0x8B << 16 | 0x67 << 32) + store(BLOCK + svm.TR + 8, TSS) + svm.vmload()
    code += store(BLOCK + svm.CS, 0x33 | 0xAFB << 16 | 0xFFFFFFFF << 32) + store(BLOCK + svm.CPL, 3, 1)
    code += store(BLOCK + svm.SS, 0x2B | 0xCF3 << 16 | 0xFFFFFFFF << 32) + store(TSS + 4, STACK)
    return code + b"".join(store(svm.GUEST_IDT + 16 * vector + 5, 0xEE, 1) for vector in (0x80, 3))


def user_interrupts_on_the_way() -> dict[str, object]:
    """The stack for CPL 0, then the IDT, have no memory when the event is delivered; then they have."""
    code = enable() + nested_tables() + make_block(NESTED_PAGING) + own_gdt() + as_user()
    flush = store(BLOCK + svm.TLB_CONTROL, 1, 1)
    for number, one in enumerate(USER_EVENTS):
        code += AGAIN + store(BLOCK + svm.CPL, 3, 1) + store(BLOCK + svm.RAX, 0x99)
        code += store(BLOCK + svm.CS, 0x33 | 0xAFB << 16 | 0xFFFFFFFF << 32)
        code += store(BLOCK + svm.SS, 0x2B | 0xCF3 << 16 | 0xFFFFFFFF << 32)
        code += store(BLOCK + NEXT_RIP, svm.GUEST + 5) + store(BLOCK + INJECTION, one)
        for half, (entry, page) in enumerate(((IDT_ENTRY, svm.GUEST_IDT), (STACK_ENTRY, STACK - 0x1000))):
            code += store(entry, 0) + flush + vmrun()
            for i, field in enumerate((EXIT_CODE, svm.INTERRUPTED, INFO_2, RIP)):
                code += keep_at(11 * number + 4 * half + i, field)
            code += store(entry, page | 7) + load(BLOCK + svm.INTERRUPTED) + svm.store_rax(BLOCK + INJECTION)
        # the vector in RAX, and what is on top of the stack
        code += vmrun() + keep_at(11 * number + 8, svm.RAX)
        for word in (0, 1):
            code += load(BLOCK + svm.RSP) + b"\x48\x8b\x40" + bytes([8 * word]) + keep(11 * number + 9 + word)
    return run(image(code + done(), b"\x90" * 5 + VMMCALL), 11 * len(USER_EVENTS))


def shadow() -> dict[str, object]:
    """The block tells that an exit came behind STI, and that the next one did not."""
    code = enable() + make_block() + vmrun() + keep_at(0, svm.SHADOW) + skip()
    code += vmrun() + keep_at(1, svm.SHADOW) + done()
    return run(image(code, b"\xfb" + VMMCALL + b"\x90" + VMMCALL), 2)


def shadowed_interrupt() -> dict[str, object]:
    """A virtual interrupt, without and with an interrupt shadow that the block says."""
    request = 0x41 << 32 | 9 << 16 | 1 << 24 | 1 << 8
    fields = {svm.RFLAGS: 0x202, svm.VIRTUAL_INTERRUPT: request}
    code = enable() + make_block(fields) + own_gdt()
    for number in (0, 1):
        code += AGAIN + store(BLOCK + svm.VIRTUAL_INTERRUPT, request) + store(BLOCK + svm.SHADOW, number) + vmrun()
        code += store(BLOCK + svm.RFLAGS, 0x202) + keep_at(2 * number, svm.RAX)
        code += load(BLOCK + svm.RSP) + b"\x48\x8b\x00" + keep(2 * number + 1)
    return run(image(code + done(), b"\x90" * 5 + VMMCALL), 4)


def task_priority() -> dict[str, object]:
    """CR8 of a guest under V_INTR_MASKING is the block's V_TPR."""
    code = enable() + make_block({svm.VIRTUAL_INTERRUPT: 1 << 24 | 5}) + vmrun() + keep_at(0, svm.RAX)
    code += skip() + vmrun() + keep_at(1, svm.VIRTUAL_INTERRUPT) + done()
    return run(image(code, b"\x44\x0f\x20\xc0" + VMMCALL + rax(9) + b"\x44\x0f\x22\xc0" + VMMCALL), 2)


def time() -> dict[str, object]:
    """RDTSC with and without an offset."""
    read = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0"
    code = enable() + make_block({svm.TSC_OFFSET: 1 << 50}) + read + keep(0) + vmrun() + keep_at(1, svm.RAX)
    return run(image(code + read + keep(2) + done(), read + VMMCALL), 3)


def moves() -> dict[str, object]:
    """EXITINFO1 of moves to and from control and debug registers, of CLTS, INT and INVLPG."""
    first = svm.CPUID | INT | INVLPG
    fields = {0: 1 << 16 | 1 << 19 | 1 << 3, 4: 1 << 6 | 1 << 23, svm.FIRST_VECTOR: first}
    guest = [
        b"\x41\x0f\x22\xd9",  # mov %r9, %cr3
        b"\x41\x0f\x20\xda",  # mov %cr3, %r10
        b"\x0f\x06",  # clts
        b"\x0f\x21\xf6",  # mov %dr6, %rsi
        b"\x0f\x23\xfa",  # mov %rdx, %dr7
        b"\xcd\x42",
        rax(0x1000) + rcx(0x20) + b"\x0f\x01\x7c\x88\x08",  # invlpg 8(%rax,%rcx,4)
        b"\x0f\x01\x3d\x10\x00\x00\x00",  # invlpg 16(%rip)
        rbx(0x123456789) + b"\x67\x0f\x01\x3b",  # invlpg (%ebx)
        wrmsr(0xC0000100, 0x50000) + b"\x64\x0f\x01\x3c\x25\x34\x12\x00\x00",  # invlpg %fs:0x1234
    ]
    code = enable() + make_block(fields)
    for number in range(len(guest)):
        code += vmrun() + keep_at(2 * number, EXIT_CODE) + keep_at(2 * number + 1, INFO_1) + skip()
    return {**run(image(code + done(), b"".join(guest) + VMMCALL), 2 * len(guest)), "lengths": [len(b) for b in guest]}


def bytes_fetched() -> dict[str, object]:
    """The block has the code that a nested page fault, or an intercepted page fault, stopped; not of a fetch."""
    code = enable() + nested_tables() + make_block({**NESTED_PAGING, svm.EXCEPTIONS: 1 << 14}) + store(LEAF, 0)
    for number in range(3):
        code += vmrun() + keep_at(3 * number, EXIT_CODE) + keep_at(3 * number + 1, 0xD0) + keep_at(3 * number + 2, 0xD8)
        code += store(BLOCK + RIP, (svm.GUEST + 0x100, 0x300000)[min(number, 1)])
    guest = (rax(0x300000) + b"\x48\x8b\x00").ljust(0x100, b"\x90") + b"\x48\xa1" + (1 << 36).to_bytes(8, "little")
    return run(image(code + done(), guest), 9)


def pauses() -> dict[str, object]:
    """A count of 5, of 0, and one that starts again at each PAUSE because of its threshold."""
    code = enable() + make_block({svm.FIRST_VECTOR: svm.CPUID | PAUSE})
    for number, (threshold, count) in enumerate([(0, 5), (0, 0), (1, 5)]):
        code += AGAIN + store(BLOCK + 0x3C, threshold, 2) + store(BLOCK + 0x3E, count, 2)
        code += vmrun() + keep_at(2 * number, EXIT_CODE) + keep_at(2 * number + 1, RIP)
    return run(image(code + done(), b"\xf3\x90" * 8 + VMMCALL), 6)


def virtual_gif() -> dict[str, object]:
    """CLGI and STGI of a guest change V_GIF, and V_GIF holds a virtual interrupt back."""
    gif = 1 << 25 | 1 << 9
    code = enable() + make_block({svm.VIRTUAL_INTERRUPT: gif}) + own_gdt()
    for number in range(2):
        code += vmrun() + keep_at(number, svm.VIRTUAL_INTERRUPT) + skip()
    request = 0x41 << 32 | 9 << 16 | 1 << 24 | 1 << 8 | 1 << 25
    for number, value in ((2, request), (4, request | 1 << 9)):
        code += AGAIN + store(BLOCK + RIP, svm.GUEST + 0x100) + store(BLOCK + svm.RFLAGS, 0x202)
        code += store(BLOCK + svm.RAX, 0) + store(BLOCK + svm.VIRTUAL_INTERRUPT, value) + vmrun()
        code += keep_at(number, svm.RAX) + keep_at(number + 1, svm.VIRTUAL_INTERRUPT)
    guest = wrmsr(svm.EFER, 0x1D00) + svm.CLGI + VMMCALL + svm.STGI + VMMCALL
    return run(image(code + done(), guest.ljust(0x100, b"\x90") + b"\x90" * 4 + VMMCALL), 6)


def virtual_vmsave() -> dict[str, object]:
    """VMSAVE and VMLOAD of a guest are at its own addresses."""
    code = enable() + nested_tables(0x87, 0x200000) + make_block({**NESTED_PAGING, LBR: 2})
    code += store(0x340000, 0) + store(LEAF, 0x200087) + vmrun() + keep_at(0, EXIT_CODE) + load(0x340620) + keep(1)
    code += store(0x340620, 0x2222) + skip() + vmrun() + keep_at(2, svm.RAX) + done()
    kernel_gs = 0xC0000102
    guest = wrmsr(svm.EFER, 0x1D00) + wrmsr(kernel_gs, 0x1111) + svm.vmsave(0x340000) + VMMCALL
    return run(image(code, guest + svm.vmload(0x340000) + rdmsr(kernel_gs) + VMMCALL), 3)


def flush_by_asid() -> dict[str, object]:
    """A page is another one after a flush of this guest's ASID, by each of TLB_CONTROL's values."""
    code = enable() + nested_tables() + make_block(NESTED_PAGING)
    for number, control in enumerate((1, 3, 7)):
        for half, page in enumerate((0x141000, 0x142000)):
            code += store(page, 0x100 * number + half) + store(0x173000 + 8 * 0x143, page | 7) + AGAIN
            code += store(BLOCK + svm.TLB_CONTROL, control, 1) + vmrun() + keep_at(2 * number + half, svm.RAX)
    return run(image(code + done(), load(0x143000) + VMMCALL), 6)


class Watching(Hypervisor):
    """Level 1: every write of CR0 stops, and goes on."""

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.CR_WRITE, 0, 0, None, self.watch)]

    def watch(self, event: Event) -> Result:
        del event
        return Result(Outcome.DECLINED)


def selective(levels: list[LevelSpec]) -> dict[str, object]:
    """Writes of CR0: of TS alone, of AM, by LMSW, by CLTS; then both intercepts are on."""
    code = enable() + make_block({svm.FIRST_VECTOR: svm.CPUID | 1 << 5})
    code += vmrun() + keep_at(0, EXIT_CODE) + keep_at(1, RIP) + skip()
    code += vmrun() + keep_at(2, EXIT_CODE) + keep_at(3, RIP) + skip()
    code += vmrun() + keep_at(4, EXIT_CODE) + keep_at(5, RIP)
    code += store(BLOCK, 1 << 16, 4) + store(BLOCK + RIP, svm.GUEST + 0x13) + vmrun() + keep_at(6, EXIT_CODE)
    read, write = b"\x0f\x20\xc0", b"\x0f\x22\xc0"
    guest = read + b"\x48\x83\xc8\x08" + write  # TS
    guest += read + b"\x48\x0d\x00\x00\x04\x00" + write  # AM, at 0x13
    guest += b"\x0c\x04\x0f\x01\xf0" + b"\x0f\x06" + VMMCALL  # or $4, %al; lmsw %ax, at 0x18
    return run(image(code + done(), guest), 7, levels)


def skinit() -> dict[str, object]:
    """A guest's SKINIT is undefined, and its hypervisor hears of that if it asks."""
    code = enable() + make_block({svm.EXCEPTIONS: 1 << 6}) + vmrun() + keep_at(0, EXIT_CODE) + keep_at(1, RIP) + done()
    return run(image(code, wrmsr(svm.EFER, 0x1D00) + svm.SKINIT + VMMCALL), 2)


def shadow_paging() -> dict[str, object]:
    """A hypervisor that pages its guest by tables of its own: fills them by #PF, and knows INVLPG and CR3."""
    first = svm.CPUID | INVLPG
    code = enable() + make_block({svm.EXCEPTIONS: 1 << 14, 0: 1 << 19, svm.FIRST_VECTOR: first, svm.CR3: 0x148000})
    # guest's tables: 2 MiB at 0 as they are, 4 KiB pages at 1 GiB
    code += store(0x148000, 0x149007) + store(0x149000, 0x14A007) + store(0x149008, 0x14B007)
    code += store(0x14A000, 0x87) + store(0x14B000, 0x14C007) + store(0x14D000, 0x77) + store(0x14E000, 0x99)
    code += vmrun() + keep_at(0, EXIT_CODE) + keep_at(1, INFO_1) + keep_at(2, INFO_2)
    code += store(0x14C000, 0x14D007) + vmrun() + keep_at(3, EXIT_CODE) + keep_at(4, svm.RAX) + keep_at(5, INFO_1)
    code += store(0x14C000, 0x14E007) + store(BLOCK + svm.TLB_CONTROL, 3, 1) + skip()
    code += vmrun() + keep_at(6, EXIT_CODE) + keep_at(7, svm.RAX) + done()
    read = b"\x48\xa1" + (1 << 30).to_bytes(8, "little")  # needs no register: the hypervisor changes those
    return run(
        image(code, read + b"\x48\xbe" + (1 << 30).to_bytes(8, "little") + b"\x0f\x01\x3e" + read + b"\x0f\x22\xda"), 8
    )


def two_guests() -> dict[str, object]:
    """Two guests by turns: the tables of both are kept, so that no turn costs more than the first ones."""
    other = 0x131000
    code = enable() + nested_tables() + make_block(NESTED_PAGING)
    code += make_block({**NESTED_PAGING, svm.ASID: 2}, at=other)
    turn = vmrun() + vmrun(other)
    return run(image(code + turn * 2 + repeat(50, turn) + done(), VMMCALL), 0)


def reset() -> dict[str, object]:
    """Level 1 stops level 3, goes on with it, and then starts level 2 anew: by all of its state, and as at reset."""
    block, level_3, anew, tables = 0x180000, svm.GUEST + 0x4000, svm.GUEST + 0x8000, 0x1A0000
    code = enable() + make_block({svm.FIRST_VECTOR: svm.CPUID | svm.IOIO}) + store(svm.IOPM + 0x80 // 8, 1, 1)
    start = AGAIN + store(BLOCK + svm.EFER_FIELD, 0x1D00) + vmrun()
    code += start + keep_at(0, EXIT_CODE) + skip() + vmrun() + keep_at(1, EXIT_CODE) + keep_at(2, svm.RAX)
    copy = svm.control_register(3) + b"\x48\x89\xc6" + rdi(tables) + rcx(512) + b"\xf3\x48\xa5"
    code += start + keep_at(3, EXIT_CODE) + copy + store(BLOCK + svm.CR3, tables)
    code += store(BLOCK + RIP, anew) + store(BLOCK + svm.RSP, 0x158000) + vmrun()
    code += keep_at(4, EXIT_CODE) + keep_at(5, svm.RAX)
    code += start + keep_at(6, EXIT_CODE) + store(0x14FFF0, 0xD9010F) + store(BLOCK + RIP, 0xFFF0)
    code += store(BLOCK + svm.CS, 0xF000 | 0x9B << 16 | 0xFFFF << 32) + store(BLOCK + svm.CS + 8, 0x140000)
    code += store(BLOCK + svm.CR0, 0x10) + store(BLOCK + svm.CR4, 0) + store(BLOCK + svm.EFER_FIELD, 0x1000)
    code += store(BLOCK + svm.RAX, 0x77) + vmrun() + keep_at(7, EXIT_CODE) + keep_at(8, svm.RAX) + done()
    level_2 = enable() + make_block(at=block, guest=level_3) + vmrun(block) + load(block + EXIT_CODE) + VMMCALL
    guest = level_2.ljust(0x4000, b"\x90") + b"\xe6\x80" + VMMCALL
    return run(image(code, guest.ljust(0x8000, b"\x90") + rax(0x55) + VMMCALL), 9)


CLEAN = 0xC0
SEGMENTS_CLEAN = 1 << 7 | 1 << 8  # and descriptor tables


def begun_anew() -> dict[str, object]:
    """What level 1 does to level 2 while level 3 runs, or level 2 itself: RAX of the next exit tells who went on.

    All of RIP, RSP and CR3 change, but no segment; level 3 has shut down, and RIP alone changes; level 2 has SVM on,
    and is reset.
    """
    block, level_3, anew, tables = 0x180000, svm.GUEST + 0x4000, svm.GUEST + 0x8000, 0x1A0000
    fields = {svm.FIRST_VECTOR: svm.CPUID | svm.IOIO | svm.SHUTDOWN}
    code = enable() + make_block(fields) + store(svm.IOPM + 0x80 // 8, 1, 1)
    start = AGAIN + store(BLOCK + svm.EFER_FIELD, 0x1D00) + store(BLOCK + CLEAN, 0, 4) + vmrun()
    copy = svm.control_register(3) + b"\x48\x89\xc6" + rdi(tables) + rcx(512) + b"\xf3\x48\xa5"
    code += start + keep_at(0, EXIT_CODE) + copy + svm.control_register(3) + svm.store_rax(0x133100)
    code += store(BLOCK + svm.CR3, tables) + store(BLOCK + RIP, anew) + store(BLOCK + svm.RSP, 0x158000)
    code += store(BLOCK + CLEAN, SEGMENTS_CLEAN, 4) + vmrun() + keep_at(1, EXIT_CODE) + keep_at(2, svm.RAX)
    code += load(0x133100) + svm.store_rax(BLOCK + svm.CR3)
    code += start + skip() + vmrun() + keep_at(3, EXIT_CODE) + store(BLOCK + RIP, anew) + vmrun()
    code += keep_at(4, EXIT_CODE) + keep_at(5, svm.RAX)
    # mov $EFER, %ecx; rdmsr; vmmcall
    reset = b"\x66\xb9\x80\x00\x00\xc0\x0f\x32" + VMMCALL
    code += store(0x14FFF0, int.from_bytes(reset[:8], "little")) + store(0x14FFF8, int.from_bytes(reset[8:], "little"))
    code += store(BLOCK + RIP, svm.GUEST + 0x6000) + vmrun() + keep_at(6, EXIT_CODE) + keep_at(7, svm.RAX)
    code += store(BLOCK + svm.CS, 0xF000 | 0x9B << 16 | 0xFFFF << 32) + store(BLOCK + svm.CS + 8, 0x140000)
    code += store(BLOCK + svm.CR0, 0x10) + store(BLOCK + svm.CR4, 0) + store(BLOCK + svm.EFER_FIELD, 0x1000)
    code += store(BLOCK + RIP, 0xFFF0) + vmrun() + keep_at(8, EXIT_CODE) + keep_at(9, svm.RAX) + done()
    level_2 = enable() + make_block({svm.FIRST_VECTOR: svm.CPUID}, at=block, guest=level_3)
    level_2 += store(block + svm.IDTR, 0) + vmrun(block) + load(block + EXIT_CODE) + VMMCALL
    guest = level_2.ljust(0x4000, b"\x90") + b"\xe6\x80\xcc"
    guest = guest.ljust(0x6000, b"\x90") + enable() + rdmsr(svm.EFER) + VMMCALL
    return run(image(code, guest.ljust(0x8000, b"\x90") + rax(0x55) + VMMCALL), 10)


def withdrawn() -> dict[str, object]:
    """Level 1 stops level 3, takes the page of its block from level 2, and gives it back when that is missing."""
    block = 0x180000
    entry = 0x173000 + 8 * (block >> 12)
    code = enable() + nested_tables() + store(svm.IOPM + 0x80 // 8, 1, 1)
    code += make_block({svm.FIRST_VECTOR: svm.CPUID | svm.IOIO, **NESTED_PAGING})
    code += vmrun() + keep_at(0, EXIT_CODE) + skip() + store(entry, 0) + store(BLOCK + svm.TLB_CONTROL, 1, 1)
    code += vmrun() + keep_at(1, EXIT_CODE) + keep_at(2, INFO_1) + keep_at(3, INFO_2) + store(entry, block | 7)
    code += vmrun() + keep_at(4, EXIT_CODE) + keep_at(5, svm.RAX) + done()
    level_2 = (
        enable() + make_block(at=block, guest=svm.GUEST + 0x4000) + vmrun(block) + load(block + EXIT_CODE) + VMMCALL
    )
    return run(image(code, level_2.ljust(0x4000, b"\x90") + b"\xe6\x80" + VMMCALL), 6)


def features() -> dict[str, object]:
    return run(image(cpuid(0x8000000A) + keep(0) + rbx(0) + b"\x48\x89\xd0" + keep(1) + done(), b""), 2)


CASES = {
    "faults on the way": faults_on_the_way,
    "exceptions on the way": exceptions_on_the_way,
    "own interrupts on the way": own_interrupts_on_the_way,
    "user interrupts on the way": user_interrupts_on_the_way,
    "shadow": shadow,
    "shadowed interrupt": shadowed_interrupt,
    "task priority": task_priority,
    "time": time,
    "moves": moves,
    "bytes": bytes_fetched,
    "pauses": pauses,
    "virtual GIF": virtual_gif,
    "virtual VMSAVE": virtual_vmsave,
    "flush by ASID": flush_by_asid,
    "selective": lambda: selective([]),
    "selective above a watcher": lambda: selective([LevelSpec(HERE + "Watching")]),
    "skinit": skinit,
    "shadow paging": shadow_paging,
    "two guests": two_guests,
    "reset": reset,
    "begun anew": begun_anew,
    "withdrawn": withdrawn,
    "features": features,
}


if __name__ == "__main__":
    print_cases(CASES, sys.argv[1:])
