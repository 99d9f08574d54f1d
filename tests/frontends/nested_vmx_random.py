"""A hypervisor that enters VMCSs which are a right one with random fields: L0 must come through each of them.

Its guest has little memory, and a preemption timer. What decides over the hypervisor's own way back stays right.
"""

from __future__ import annotations

import random
import struct

import vmx_code as vmx
from guest_code import done, rax, rcx, rdi, rsi, store
from nested_vmx_run import SECONDARY_ON, ept_tables, run
from vmx_code import VMCALL, enable, enter, image, make_block, store_rax, vmwrite

ROUNDS = 400
COPY = 0x180000
CHANGES = 0x200000
ROUND, NEXT, VERDICTS = 0x133200, 0x133208, 0x121000
CHANGED = 3  # fields in a round

KEPT = {
    vmx.PIN, vmx.PRIMARY, vmx.SECONDARY, vmx.ACTIVITY, vmx.TIMER, vmx.STORE_COUNT, vmx.LOAD_COUNT,
    vmx.HOST_CR3, vmx.HOST_RIP, vmx.HOST_RSP,
}  # fmt: skip
FIELDS = [
    *range(vmx.ES, 0x810, 2), *range(vmx.HOST_ES, 0xC0E, 2), 0x2000, 0x2002, 0x2004, 0x200A, 0x2010, 0x201A,
    *range(0x2800, 0x2808, 2), *range(0x280A, 0x2812, 2), 0x2C00, 0x2C02, *range(0x4000, 0x401C, 2),
    *range(0x4800, 0x482C, 2), 0x4C00, *range(0x6000, 0x6010, 2), *range(0x6800, 0x6828, 2), *range(0x6C00, 0x6C14, 2),
]  # fmt: skip


def place(field: int) -> int:
    """Where L0 has a field in a VMCS's memory: native/nested_vmx_fields.c."""
    return 16 + 8 * (((field >> 11 & 12) | (field >> 10 & 3)) * 26 + (field >> 1 & 31))


def changes(seed: int) -> bytes:
    """For each round: places and what their values are XORed with."""
    source = random.Random(seed)
    fields = [field for field in FIELDS if field not in KEPT]
    data = b""
    for _ in range(ROUNDS * CHANGED):
        width = {0: 16, 1: 64, 2: 32, 3: 64}[(field := source.choice(fields)) >> 13]
        value = 1 << source.randrange(width) if source.random() < 0.7 else source.getrandbits(width)
        data += struct.pack("<QQ", place(field), value)
    return data


def random_blocks() -> dict[str, object]:
    """Counts the rounds; keeps what became of each: RFLAGS of the instruction, or 0, and the exit reason."""
    code = enable() + ept_tables(0) + make_block({vmx.PRIMARY: SECONDARY_ON | 1 << 7, vmx.SECONDARY: 2})
    code += vmwrite(vmx.PIN, vmx.PIN_PLAIN | 0x41) + vmwrite(vmx.TIMER, 1 << 8)
    code += store(ROUND, 0) + store(NEXT, CHANGES)
    # copy the page: mov $COPY, %rdi; mov $REGION, %rsi; mov $512, %ecx; rep movsq
    body = rdi(COPY) + rsi(vmx.REGION) + rcx(512) + b"\xf3\x48\xa5"
    # the changes: mov (NEXT), %rsi; then each: mov (%rsi), %rdi; mov 8(%rsi), %rax; xor %rax, COPY(%rdi); add $16, %rsi
    body += rdi(NEXT) + b"\x48\x8b\x37"
    body += (b"\x48\x8b\x3e\x48\x8b\x46\x08\x48\x31\x87" + struct.pack("<I", COPY) + b"\x48\x83\xc6\x10") * CHANGED
    body += rdi(NEXT) + b"\x48\x89\x37"
    body += vmx.point(COPY) + vmx.VMCLEAR + rdi(vmx.POINTER) + vmx.VMPTRLD + enter(vmx.VMLAUNCH)
    # the verdict: %rbx = 16 * round + VERDICTS
    index = rdi(ROUND) + b"\x48\x8b\x1f\x48\xc1\xe3\x04\x48\x81\xc3" + struct.pack("<I", VERDICTS)
    body += vmx.vmread(vmx.REASON) + index + b"\x48\x89\x43\x08" + rdi(vmx.FLAGS) + b"\x48\x8b\x07\x48\x89\x03"
    body += b"\x66\x90" + rdi(ROUND) + b"\x48\xff\x07\x48\x81\x3f" + struct.pack("<I", ROUNDS)  # incq; cmpq
    code += body + b"\x0f\x85" + struct.pack("<i", -(len(body) + 6))
    code += rdi(ROUND) + b"\x48\x8b\x07" + store_rax(0x120000) + rax(0) + done()
    whole = image(code, VMCALL + b"\xeb\xfe").ljust(CHANGES - 0x100000, b"\0") + changes(1)
    return run(whole, 0x200 + 2 * ROUNDS)


RANDOM_CASES = {"random": random_blocks}
