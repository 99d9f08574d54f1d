"""Runs in the SVM lab: hypervisors in machine code at level 1, and their guests; prints what they kept, as JSON."""

from __future__ import annotations

import sys
from functools import partial

import svm_code as svm
from guest_code import (
    CODE,
    END_OF_INTERRUPT,
    UD2,
    add,
    cpuid,
    done,
    handler,
    keep,
    keep_rbx,
    load,
    out,
    pic,
    rax,
    rbx,
    rcx,
    rdi,
    rdmsr,
    rdx,
    repeat,
    store,
    until,
    with_handlers,
    wrmsr,
)
from nested_run import RINGING, run_on
from print_cases import print_cases
from random_moves import KEPT, random_moves
from svm_code import (
    BLOCK,
    EXIT_CODE,
    INFO_1,
    INFO_2,
    INJECTION,
    NEXT_RIP,
    RAX,
    RIP,
    enable,
    image,
    keep_field,
    make_block,
    own_gdt,
    skip,
    vmrun,
)

from nestvmm.nesting import LevelSpec

run = partial(run_on, "svm")


def first() -> dict[str, object]:
    """Level 2 does CPUID, level 1 answers, level 2 keeps the answer and leaves."""
    code = enable() + make_block() + vmrun()
    code += keep_field(0, EXIT_CODE) + keep_field(1, RAX) + store(0x130000 + RAX, 0x1234) + skip() + vmrun()
    return run(image(code + done(9), cpuid(0x77) + keep(2) + done(3)), 3)


VMMCALL = svm.VMMCALL_CODE
LOADS_IDT = 8  # bytes of with_handlers' own
CR0_VALUE, CR4_VALUE, EFER_VALUE = 0x80000031, 0x20, 0x1D00

# Each breaks one rule of AMD APM vol. 2, 15.5.1: field, bytes, value.
INVALID = {
    "EFER.SVME clear": (svm.EFER_FIELD, 8, 0xD00),
    "CR0.NW without CD": (svm.CR0, 8, CR0_VALUE | 1 << 29),
    "CR0's upper half": (svm.CR0, 8, CR0_VALUE | 1 << 32),
    "CR3's reserved bits": (svm.CR3, 8, 1 << 62),
    "CR4's reserved bits": (svm.CR4, 8, CR4_VALUE | 1 << 31),
    "DR6's upper half": (svm.DR6, 8, 0xFFFF0FF0 | 1 << 32),
    "DR7's upper half": (svm.DR7, 8, 0x400 | 1 << 32),
    "EFER's reserved bits": (svm.EFER_FIELD, 8, EFER_VALUE | 1 << 20),
    "long mode without PAE": (svm.CR4, 8, 0),
    "long mode without PE": (svm.CR0, 8, CR0_VALUE & ~1),
    "CS.L with CS.D": (svm.CS, 8, 0x10 | 0x0E9B << 16 | 0xFFFFFFFF << 32),
    "no VMRUN intercept": (svm.SECOND_VECTOR, 4, 2),
    "MSRPM outside": (svm.MSRPM_BASE, 8, 1 << 52),
    "IOPM outside": (svm.IOPM_BASE, 8, 1 << 52),
    "IOPM's end outside": (svm.IOPM_BASE, 8, (1 << 40) - 0x1000),
    "event of a reserved type": (INJECTION, 8, 1 << 31 | 1 << 8),
    "event 5": (INJECTION, 8, 1 << 31 | 5 << 8),
    "exception 2": (INJECTION, 8, 1 << 31 | 3 << 8 | 2),
    "exception 9": (INJECTION, 8, 1 << 31 | 3 << 8 | 9),
    "exception 32": (INJECTION, 8, 1 << 31 | 3 << 8 | 32),
    "#BR in 64-bit code": (INJECTION, 8, 1 << 31 | 3 << 8 | 5),
    "ASID 0": (svm.ASID, 4, 0),
    "reserved TLB control": (svm.TLB_CONTROL, 1, 2),
    "nested CR3 outside": (svm.NESTED_CR3, 8, 1 << 52),
    "reserved memory type": (svm.PAT, 8, 2),
}
NESTED_TOO = {"nested CR3 outside", "reserved memory type"}


def keep_at(number: int, offset: int, at: int = BLOCK) -> bytes:
    return keep_field(number, offset, at)


def save_field(offset: int) -> bytes:
    return load(BLOCK + offset) + svm.store_rax(0x133100)


def restore_field(offset: int) -> bytes:
    return load(0x133100) + svm.store_rax(BLOCK + offset)


def invalid() -> dict[str, object]:
    """Each broken rule, then at last the block without any."""
    code = enable() + make_block()
    for number, (name, (offset, size, value)) in enumerate(INVALID.items()):
        aligned = offset & ~7
        code += save_field(aligned) + store(BLOCK + offset, value, size)
        if name in NESTED_TOO:
            code += store(BLOCK + svm.NESTED, 1)
        code += store(BLOCK + EXIT_CODE, 0x5555) + vmrun() + keep_at(number, EXIT_CODE) + restore_field(aligned)
        code += store(BLOCK + svm.NESTED, 0)
    code += vmrun() + keep_at(len(INVALID), EXIT_CODE) + done()
    return {**run(image(code, VMMCALL), len(INVALID) + 1), "names": list(INVALID)}


# What EVENTINJ delivers: kind, vector, error code; the guest's handler tells the vector.
EVENTS = [
    (0, 0x20),
    (0, 0xFF),
    (2, 2),
    (3, 0),
    (3, 1),
    (3, 3),
    (3, 4),
    (3, 6),
    (3, 8),
    (3, 13),
    (3, 14),
    (4, 0x80),
    (4, 3),
]


def events() -> dict[str, object]:
    code = enable() + make_block() + own_gdt()
    for number, (kind, vector) in enumerate(EVENTS):
        error = 0x5A8 if (kind, vector) in {(3, 8), (3, 13), (3, 14)} else None
        value = 1 << 31 | kind << 8 | vector | (0 if error is None else 1 << 11 | error << 32)
        code += store(BLOCK + RIP, svm.GUEST) + store(BLOCK + svm.RSP, svm.GUEST_STACK)
        code += store(BLOCK + NEXT_RIP, svm.GUEST + 5) + store(BLOCK + INJECTION, value) + vmrun()
        code += keep_at(4 * number, EXIT_CODE) + keep_at(4 * number + 1, RAX) + keep_at(4 * number + 2, INJECTION)
        # what is on its stack: an error code, or RIP
        code += load(BLOCK + svm.RSP) + b"\x48\x8b\x00" + svm.store_rax(0x120000 + 8 * (4 * number + 3))
    return run(image(code + done(), b"\x90" * 5 + VMMCALL), 4 * len(EVENTS))


def ports() -> dict[str, object]:
    """Port 0x5003 is intercepted: accesses that touch it, and no others."""
    code = enable() + make_block({svm.FIRST_VECTOR: svm.CPUID | svm.IOIO}) + store(svm.IOPM + 0x5000 // 8, 1 << 3, 1)
    accesses = [(0x5003, b"\xee"), (0x5002, b"\x66\xef"), (0x5000, b"\xef"), (0x5003, b"\xec"), (0x5001, b"\x66\xed")]
    guest = b""
    for port, opcode in accesses:
        guest += rdx(port) + rax(0x11223344) + opcode
    for number in range(4):
        code += vmrun() + keep_at(4 * number, EXIT_CODE) + keep_at(4 * number + 1, INFO_1)
        code += (
            keep_at(4 * number + 2, INFO_2)
            + keep_at(4 * number + 3, RIP)
            + load(BLOCK + INFO_2)
            + svm.store_rax(BLOCK + RIP)
        )
    code += vmrun() + keep_at(16, EXIT_CODE) + done()
    return run(image(code, guest + VMMCALL), 17)


def msrs() -> dict[str, object]:
    """Writes of STAR and reads of a low MSR exit; what the map has no bits for does, too."""
    code = enable() + make_block({svm.FIRST_VECTOR: svm.CPUID | svm.MSR})
    bit = 2 * 0x81 + 1  # STAR, write
    code += store(svm.MSRPM + 0x800 + bit // 8, 1 << bit % 8, 1) + store(
        svm.MSRPM + 2 * 0x174 // 8, 1 << 2 * 0x174 % 8, 1
    )
    guest = (
        rdmsr(0xC0000081) + wrmsr(0xC0000081, 0x1122334455667788) + wrmsr(0x174, 8) + rdmsr(0x174) + rdmsr(0x4E570000)
    )
    for number in range(3):
        code += (
            vmrun() + keep_at(4 * number, EXIT_CODE) + keep_at(4 * number + 1, INFO_1) + keep_at(4 * number + 2, RAX)
        )
        code += b"\x48\x89\xc8" + keep(4 * number + 3) + skip()  # rcx
    code += vmrun() + keep_at(12, EXIT_CODE) + rdmsr(0xC0000081) + keep(13) + rdmsr(0x174) + keep(14) + done()
    return run(image(code, guest + VMMCALL), 15)


def exceptions() -> dict[str, object]:
    """#UD, #PF and #GP exit; then only #UD does not, and the guest handles it."""
    vectors = 1 << 6 | 1 << 14 | 1 << 13
    code = enable() + make_block({svm.EXCEPTIONS: vectors}) + own_gdt()
    guest = UD2 + load(0x1_0000_0000_0) + rax(0x1234) + b"\x8e\xd8" + UD2
    for number, length in enumerate((2, 3, 2)):
        code += vmrun() + keep_at(4 * number, EXIT_CODE) + keep_at(4 * number + 1, INFO_1)
        code += keep_at(4 * number + 2, INFO_2) + keep_at(4 * number + 3, RIP)
        code += load(BLOCK + RIP) + b"\x48\x83\xc0" + bytes([length]) + svm.store_rax(BLOCK + RIP)
    code += store(BLOCK + svm.EXCEPTIONS, 0, 4) + vmrun() + keep_at(12, EXIT_CODE) + keep_at(13, RAX) + done()
    return run(image(code, guest), 14)


def nested_tables(entry: int = 0x87, offset: int = 0) -> bytes:
    """At 0x170000: level 2's first GiB, and the page of 2 MiB at 2 MiB leads to `offset`; 4 KiB pages are below."""
    pml4, pdpt, directory, table = 0x170000, 0x171000, 0x172000, 0x173000
    code = store(pml4, pdpt | 7) + store(pdpt, directory | 7) + store(directory, table | 7)
    code += store(directory + 8, offset | entry)
    # mov $table, %rdi; mov $7, %rax; mov $512, %ecx; 1: stosq; add $0x1000, %rax; loop 1b
    return (
        code
        + b"\x48\xbf"
        + table.to_bytes(8, "little")
        + rax(7)
        + rcx(512)
        + b"\x48\xab\x48\x05\x00\x10\x00\x00\xe2\xf6"
    )


def nested(number: int, name: str) -> bytes:
    """Runs, keeps code, EXITINFO1, EXITINFO2 and RIP."""
    return vmrun() + b"".join(keep_at(4 * number + i, at) for i, at in enumerate((EXIT_CODE, INFO_1, INFO_2, RIP)))


def paging() -> dict[str, object]:
    """Level 2 reads and writes 2 MiB, which is level 1's 3 MiB; then that is read-only, not executable, absent."""
    leaf = 0x172008
    code = enable() + nested_tables(0x83, 0x200000) + make_block({svm.NESTED: 1, svm.NESTED_CR3: 0x170000})
    code += store(leaf, 0x200000 | 0x87) + store(0x300000, 0xABCD)
    flush = store(BLOCK + svm.TLB_CONTROL, 1, 1)
    code += nested(0, "call") + keep_at(4, RAX) + load(leaf) + keep(5)  # reads, and only the accessed bit is set
    code += skip() + vmrun() + load(leaf) + keep(6) + load(0x300008) + keep(7)
    code += skip() + store(leaf, 0x200000 | 0x85) + flush + nested(2, "write")
    code += store(leaf, (1 << 63) | 0x200000 | 0x87) + vmrun() + skip() + nested(3, "fetch")
    code += store(BLOCK + RIP, svm.GUEST) + store(leaf, 0) + nested(4, "absent")
    code += store(BLOCK + RIP, svm.GUEST) + store(leaf, 0x200000 | 1 << 51 | 0x87) + nested(5, "reserved")
    code += store(BLOCK + svm.NESTED_CR3, 0x3FFFF000) + nested(6, "root in a hole")
    code += store(0x170000, 0x170000 | 7) + store(BLOCK + svm.NESTED_CR3, 0x170000) + nested(7, "loop") + done()
    guest = load(0x300000) + VMMCALL + store(0x300008, 0x77) + VMMCALL + store(0x300010, 1) + VMMCALL
    guest += b"\x48\xc7\xc0\x00\x00\x30\x00\xff\xe0"  # jumps there
    return run(image(code, guest), 32)


def instructions() -> dict[str, object]:
    """The SVM instructions that fault: results are vector, error code by handlers of level 1."""

    def handler(vector: int, error: bool) -> bytes:
        # r8 is the result's place, r9 where to go on
        code = b"\x49\xc7\x00" + vector.to_bytes(4, "little") + b"\x49\x83\xc0\x08"
        if error:
            code += b"\x48\x83\xc4\x08"
        return code + b"\x4c\x89\x0c\x24\x48\xcf"

    def tried(body: bytes, before: bytes = b"") -> bytes:
        """r9 = behind it; what does not fault gives 0xff."""
        unfaulted = b"\x49\xc7\x00\xff\x00\x00\x00\x49\x83\xc0\x08"
        return before + b"\x4c\x8d\x0d" + len(body + unfaulted).to_bytes(4, "little") + body + unfaulted

    vmload, vmsave = svm.vmload, svm.vmsave
    code = b"\x49\xb8" + (0x120000).to_bytes(8, "little")
    for body in (svm.STGI, svm.CLGI, vmrun(), vmload(), vmsave(), svm.INVLPGA, svm.SKINIT):
        code += tried(body)  # 0 to 6: EFER.SVME is clear
    code += enable()
    for at in (BLOCK + 8, 1 << 52, 0x3FFFF000):
        code += tried(vmrun(at)) + tried(vmload(at)) + tried(vmsave(at))  # 7 to 15
    for body in (svm.STGI, svm.CLGI, svm.STGI, svm.INVLPGA, vmload(), vmsave()):
        code += tried(body)  # 16 to 21
    code += tried(svm.SKINIT)  # 22
    code += (
        tried(wrmsr(svm.VM_CR, 1 << 5)) + tried(wrmsr(svm.VM_CR, 1 << 4)) + tried(wrmsr(svm.VM_HSAVE_PA, 8))
    )  # 23 to 25
    code += tried(rdmsr(svm.VM_CR)) + keep(40) + rdmsr(svm.VM_HSAVE_PA) + keep(41) + rdmsr(svm.EFER) + keep(42)
    code += cpuid(0x8000000A) + keep(43) + b"\x48\x89\xd0" + keep(44)
    code += wrmsr(svm.EFER, 0xD00) + wrmsr(svm.VM_CR, 1 << 4 | 1 << 3) + tried(wrmsr(svm.EFER, 0x1D00))  # 27
    code += wrmsr(svm.VM_CR, 0) + rdmsr(svm.VM_CR) + keep(45)
    whole = with_handlers(code + done(), {6: handler(6, False), 13: handler(13, True)})
    return run(whole, 46)


def stepped() -> dict[str, object]:
    """The trap flag before each SVM instruction: the handler keeps where it came from, and clears it."""
    # mov (%rsp), %rax; mov %rax, (%r8); add $8, %r8; andq $~TF, 16(%rsp); iretq
    handler = b"\x48\x8b\x04\x24\x49\x89\x00\x49\x83\xc0\x08\x48\x81\x64\x24\x10\xff\xfe\xff\xff\x48\xcf"
    flag = b"\x9c\x48\x81\x0c\x24\x00\x01\x00\x00\x9d"  # pushf; orq $TF, (%rsp); popf
    code = enable() + make_block() + b"\x49\xb8" + (0x120000).to_bytes(8, "little")
    behind = []
    for body in (svm.STGI, svm.CLGI, svm.INVLPGA, svm.vmload()[-3:], svm.vmsave()[-3:], vmrun()[-3:]):
        code += rax(BLOCK) + flag + body
        behind.append(CODE + LOADS_IDT + len(code))
    code += store(BLOCK + svm.ASID, 0, 4) + rax(BLOCK) + flag + vmrun()[-3:]
    behind.append(CODE + LOADS_IDT + len(code))
    whole = with_handlers(code + done(), {1: handler}).ljust(svm.GUEST - CODE, b"\0") + VMMCALL
    return {**run(whole, len(behind)), "behind": behind}


def live_state() -> dict[str, object]:
    """VMSAVE stores and VMLOAD loads what VMRUN leaves alone."""
    fs_base, kernel_gs, star, sysenter = 0xC0000100, 0xC0000102, 0xC0000081, 0x174
    code = enable()
    for number, index in enumerate((fs_base, kernel_gs, star, sysenter)):
        code += wrmsr(index, 0x1110 + number)
    code += svm.vmsave() + keep_at(0, 0x440 + 8) + keep_at(1, 0x620) + keep_at(2, 0x600) + keep_at(3, 0x628)
    code += store(BLOCK + 0x440 + 8, 0x2220) + store(BLOCK + 0x620, 0x2221) + svm.vmload()
    for number, index in enumerate((fs_base, kernel_gs, star, sysenter), start=4):
        code += rdmsr(index) + keep(number)
    return run(code.ljust(0x1000, b"\x90") + done(), 8)


V_IRQ = 1 << 8
V_MASKING = 1 << 24


def virtual_interrupts() -> dict[str, object]:
    """V_IRQ 0x41: taken at once, at STI, as an exit, and not under a high V_TPR."""
    request = 0x41 << 32 | 9 << 16 | V_IRQ | V_MASKING
    code = enable() + make_block({svm.RFLAGS: 0x202, svm.VIRTUAL_INTERRUPT: request}) + own_gdt()
    code += vmrun() + keep_at(0, RAX) + keep_at(1, svm.VIRTUAL_INTERRUPT)
    again = store(BLOCK + RIP, svm.GUEST) + store(BLOCK + svm.RSP, svm.GUEST_STACK) + store(BLOCK + RAX, 0)
    code += again + store(BLOCK + svm.RFLAGS, 2) + store(BLOCK + svm.VIRTUAL_INTERRUPT, request) + vmrun()
    code += keep_at(2, RAX) + keep_at(3, svm.VIRTUAL_INTERRUPT) + keep_at(4, RIP)
    code += skip() + vmrun() + keep_at(5, RAX) + keep_at(6, svm.VIRTUAL_INTERRUPT)
    # the window
    code += again + store(BLOCK + svm.RFLAGS, 2) + store(BLOCK + svm.VIRTUAL_INTERRUPT, request)
    code += store(BLOCK + svm.FIRST_VECTOR, svm.CPUID | 1 << 4, 4) + vmrun() + skip() + vmrun()
    code += keep_at(7, EXIT_CODE) + keep_at(8, RIP) + keep_at(9, svm.VIRTUAL_INTERRUPT)
    code += again + store(BLOCK + svm.RFLAGS, 0x202) + store(BLOCK + svm.VIRTUAL_INTERRUPT, request | 9) + vmrun()
    code += keep_at(10, EXIT_CODE) + done()
    return run(image(code, VMMCALL + b"\xfb\x90\x90" + VMMCALL), 11)


def outside_interrupts(vector: bytes, first: int) -> dict[str, object]:
    """A Python level below queues it while level 3 runs: an exit to level 2, which takes it once GIF allows."""
    kept = rax(0x99) + keep(4) + b"\x48\xcf"
    code = enable() + make_block({svm.FIRST_VECTOR: svm.CPUID | first, svm.VIRTUAL_INTERRUPT: V_MASKING}) + b"\xfb"
    code += vmrun() + keep_at(0, EXIT_CODE) + keep_at(1, RIP) + load(0x120020) + keep(2) + svm.STGI + b"\x90"
    code += load(0x120020) + keep(3) + vmrun() + keep_at(5, EXIT_CODE)
    whole = with_handlers(code + done(), {0x55: kept, 2: kept})
    whole = (
        whole.ljust(svm.GUEST - 0x100000, b"\0") + rax(1) + rdx(0x5000 | vector[0]) + b"\xee" + b"\x90" * 4 + VMMCALL
    )
    return run(whole, 6, [RINGING])


def held_back() -> dict[str, object]:
    """The timer's interrupts while GIF is clear and RFLAGS.IF set: none, until STGI."""
    timer = out(0x43, 0x34) + out(0x40, 0xA9) + out(0x40, 4)  # each millisecond
    code = enable() + pic(0xFE) + timer + svm.CLGI + b"\xfb" + repeat(3_000_000, b"\x90") + load(0x120000) + keep(1)
    code += svm.STGI + until(0) + b"\xfa" + rax(1) + keep(2) + done()
    return run(with_handlers(code, {32: handler(add(0) + END_OF_INTERRUPT)}), 3, machine="pc")


SCRATCH, STACK = 0x170000, 0x172000
KERNEL_GS, KERNEL_GS_FIELD = 0xC0000102, 0x620


def clusters(levels: list[LevelSpec]) -> dict[str, object]:
    """Plain instructions between those of SVM: L0 may do them itself, and nobody can tell."""
    load_field, store_field = (
        b"\x48\x8b\x98\x20\x06\x00\x00",
        b"\x48\x89\x98\x20\x06\x00\x00",
    )  # between RBX and field(RAX)
    code = enable() + wrmsr(KERNEL_GS, 0x1111) + store(BLOCK + KERNEL_GS_FIELD, 0)
    code += svm.vmsave() + load_field + keep_rbx(0)  # what VMSAVE stores is there at once
    code += (
        store(BLOCK + KERNEL_GS_FIELD, 0x2222) + rbx(0x9999) + svm.vmload() + store_field
    )  # what VMLOAD loads is changed
    code += rdmsr(KERNEL_GS) + keep(1) + load(BLOCK + KERNEL_GS_FIELD) + keep(2)
    # pop %rax; mov %rax, %r12; mov 0x620(%rax), %r13; nop; jmp over UD2
    between = b"\x58\x49\x89\xc4\x4c\x8b\xa8\x20\x06\x00\x00\x90\xeb\x02\x0f\x0b"
    cluster = svm.vmsave()[-3:] + between + svm.vmload()[-3:]
    prepare = store(SCRATCH + KERNEL_GS_FIELD, 0x3333) + store(STACK, SCRATCH) + wrmsr(KERNEL_GS, 0x4444)
    prepare += rsp(STACK) + rax(BLOCK)
    for number in (3, 8):
        if number == 8:
            code = code.ljust(0x1000 - len(prepare) - 10, b"\x90")  # one of them goes on in another page
        code += prepare + cluster + b"\x4c\x89\xeb" + keep_rbx(number) + b"\x4c\x89\xe3" + keep_rbx(number + 1)
        code += b"\x48\x89\xe3" + keep_rbx(number + 2) + rdmsr(KERNEL_GS) + keep(number + 3)
        code += load(BLOCK + KERNEL_GS_FIELD) + keep(number + 4)
    code += rsp(0x30000000) + svm.vmsave() + b"\x5b" + keep_rbx(13) + rsp(STACK)  # pop %rbx, of no memory
    code += make_block() + store(STACK + 8, 0x5555) + rdi(STACK)
    # mov 8(%rdi), %rbx; mov %rax, %rsi
    code += svm.vmload() + b"\x48\x8b\x5f\x08\x48\x89\xc6" + vmrun()[-3:] + keep_field(14, EXIT_CODE) + done()
    return run(image(code, keep_rbx(15) + b"\x48\x89\xf3" + keep_rbx(16) + VMMCALL), 17, levels)


def rsp(value: int) -> bytes:
    return b"\x48\xbc" + value.to_bytes(8, "little")


CASES = {
    "first": first,
    "invalid": invalid,
    "events": events,
    "ports": ports,
    "msrs": msrs,
    "exceptions": exceptions,
    "paging": paging,
    "instructions": instructions,
    "stepped": stepped,
    "live state": live_state,
    "held back": held_back,
    "clusters": lambda: clusters([]),
    "clusters above Python": lambda: clusters([RINGING]),
    "random moves": lambda: run(random_moves(), KEPT),
    "random moves above Python": lambda: run(random_moves(), KEPT, [RINGING]),
    "virtual interrupts": virtual_interrupts,
    "interrupt": lambda: outside_interrupts(b"\x10", 1),
    "nmi": lambda: outside_interrupts(b"\x11", 2),
}

if __name__ == "__main__":
    print_cases(CASES, sys.argv[1:])
