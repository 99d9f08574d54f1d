"""Hypervisors for tests, put together by hand: 64-bit code at CPL 0 that makes a VMCS and enters it.

The guest is 64-bit code in the same page tables unless the test says otherwise, so it can keep its results as its
hypervisor does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from guest_code import CODE_SELECTOR, POP_RAX, PUSH_RAX, RESULTS, keep, load, rax, rdmsr, rdx, rsi, store, wrmsr

VMXON_REGION = 0x130000
REGION = 0x131000
POINTER = 0x132000
SGDT = 0x133000
FLAGS = 0x133100
TABLE = 0x134000
PORTS = 0x136000
MSR_MAP = 0x138000
MSR_LIST = 0x139000
APIC_PAGE = 0x13A000
GDT = 0x13B000
GUEST = 0x140000
GUEST_STACK = 0x150000
GUEST_IDT = 0x160000
GUEST_STUBS = 0x162000
EPT = 0x170000

# Fields (Intel SDM vol. 3, appendix B).
VPID = 0x0000
ES, CS, SS, DS, FS, GS, LDTR, TR = range(0x800, 0x810, 2)
HOST_ES, HOST_CS, HOST_SS, HOST_DS, HOST_FS, HOST_GS, HOST_TR = range(0xC00, 0xC0E, 2)
IO_MAP_A, IO_MAP_B, MSR_MAP_FIELD = 0x2000, 0x2002, 0x2004
EXIT_STORES, EXIT_LOADS, ENTRY_LOADS, TSC_OFFSET, EPT_POINTER = 0x2006, 0x2008, 0x200A, 0x2010, 0x201A
VIRTUAL_APIC, TPR_THRESHOLD = 0x2012, 0x401C
PHYSICAL, LINK, DEBUGCTL, PAT, EFER, PDPTE0 = 0x2400, 0x2800, 0x2802, 0x2804, 0x2806, 0x280A
HOST_PAT, HOST_EFER = 0x2C00, 0x2C02
PIN, PRIMARY, EXCEPTIONS, PF_MASK, PF_MATCH, CR3_TARGETS = 0x4000, 0x4002, 0x4004, 0x4006, 0x4008, 0x400A
EXIT, STORE_COUNT, LOAD_COUNT, ENTRY, ENTRY_COUNT = 0x400C, 0x400E, 0x4010, 0x4012, 0x4014
EVENT, EVENT_ERROR, EVENT_LENGTH, SECONDARY = 0x4016, 0x4018, 0x401A, 0x401E
ERROR, REASON, INTERRUPTION, INTERRUPTION_ERROR, VECTORING, VECTORING_ERROR, LENGTH, INFORMATION = range(
    0x4400, 0x4410, 2
)
LIMIT, GDTR_LIMIT, IDTR_LIMIT, RIGHTS = 0x4800, 0x4810, 0x4812, 0x4814
BLOCKING, ACTIVITY, SYSENTER_CS, TIMER = 0x4824, 0x4826, 0x482A, 0x482E
CR0_MASK, CR4_MASK, CR0_SHADOW, CR4_SHADOW, CR3_TARGET = 0x6000, 0x6002, 0x6004, 0x6006, 0x6008
QUALIFICATION, LINEAR = 0x6400, 0x640A
CR0, CR3, CR4, BASE, GDTR, IDTR, DR7, RSP, RIP, RFLAGS, PENDING, SYSENTER_ESP, SYSENTER_EIP = (
    0x6800, 0x6802, 0x6804, 0x6806, 0x6816, 0x6818, 0x681A, 0x681C, 0x681E, 0x6820, 0x6822, 0x6824, 0x6826,
)  # fmt: skip
HOST_CR0, HOST_CR3, HOST_CR4, HOST_FS_BASE, HOST_GS_BASE, HOST_TR_BASE, HOST_GDTR, HOST_IDTR = range(0x6C00, 0x6C10, 2)
HOST_SYSENTER_CS, HOST_SYSENTER_ESP, HOST_SYSENTER_EIP, HOST_RSP, HOST_RIP = 0x4C00, 0x6C10, 0x6C12, 0x6C14, 0x6C16

REVISION = 0x4E56
FEATURE_CONTROL = 0x3A
VMX_BASIC = 0x480

# What the controls must have (appendix A), and what 64-bit code needs.
PIN_PLAIN, PRIMARY_PLAIN, EXIT_PLAIN, ENTRY_PLAIN = 0x16, 0x04006172, 0x36DFB | 1 << 9, 0x11FB | 1 << 9
CODE_64, DATA, TSS, UNUSABLE = 0xA09B, 0xC093, 0x8B, 0x10000

VMCALL, VMLAUNCH, VMRESUME, VMXOFF = (b"\x0f\x01" + bytes([one]) for one in (0xC1, 0xC2, 0xC3, 0xC4))
VMXON, VMCLEAR, VMPTRLD, VMPTRST = b"\xf3\x0f\xc7\x37", b"\x66\x0f\xc7\x37", b"\x0f\xc7\x37", b"\x0f\xc7\x3f"
INVEPT, INVVPID = b"\x66\x0f\x38\x80\x07", b"\x66\x0f\x38\x81\x07"  # (%rdi), %rax
VMREAD, VMWRITE = b"\x0f\x78\xd0", b"\x0f\x79\xd0"  # %rdx is the field, %rax its value
PUSHF = b"\x9c"


def rdi(value: int) -> bytes:
    return b"\x48\xbf" + struct.pack("<Q", value)


def store_rax(address: int) -> bytes:
    return rdi(address) + b"\x48\x89\x07"


def control_register(number: int) -> bytes:
    """RAX = CRn."""
    return b"\x0f\x20" + bytes([0xC0 | number << 3])


def set_control_register(number: int) -> bytes:
    """CRn = RAX."""
    return b"\x0f\x22" + bytes([0xC0 | number << 3])


def point(address: int) -> bytes:
    """RDI = where the address is in memory."""
    return store(POINTER, address) + rdi(POINTER)


def enable() -> bytes:
    """Enters VMX operation, with REGION as the current VMCS."""
    code = wrmsr(FEATURE_CONTROL, 5) + control_register(0) + b"\x48\x83\xc8\x20" + set_control_register(0)
    code += control_register(4) + b"\x48\x0d" + struct.pack("<I", 1 << 13) + set_control_register(4)
    code += rdmsr(VMX_BASIC) + b"\x25\xff\xff\xff\x7f"  # and $0x7fffffff, %eax
    code += store_rax(VMXON_REGION) + store_rax(REGION)
    return code + point(VMXON_REGION) + VMXON + point(REGION) + VMCLEAR + rdi(POINTER) + VMPTRLD


def vmread(field: int) -> bytes:
    """RAX = a field."""
    return rdx(field) + VMREAD


def vmwrite(field: int, value: int) -> bytes:
    return rax(value) + rdx(field) + VMWRITE


def vmwrite_rax(field: int) -> bytes:
    return rdx(field) + VMWRITE


def keep_field(number: int, field: int) -> bytes:
    return vmread(field) + keep(number)


def keep_fields(number: int, *fields: int) -> bytes:
    return b"".join(keep_field(number + i, field) for i, field in enumerate(fields))


def _plain() -> dict[int, int]:
    fields = {PIN: PIN_PLAIN, PRIMARY: PRIMARY_PLAIN, EXIT: EXIT_PLAIN, ENTRY: ENTRY_PLAIN, LINK: (1 << 64) - 1}
    for number in range(8):
        code, unusable, tss = number == 1, number == 6, number == 7
        rights = CODE_64 if code else UNUSABLE if unusable else TSS if tss else DATA
        fields[ES + 2 * number] = 0 if unusable or tss else 0x10 if code else 0x18
        fields[LIMIT + 2 * number] = 0xFFFF if tss else 0xFFFFFFFF
        fields[RIGHTS + 2 * number] = rights
        fields[BASE + 2 * number] = 0
    for field in (HOST_ES, HOST_SS, HOST_DS):
        fields[field] = 0x18
    fields |= {HOST_CS: 0x10, HOST_TR: 0x28, GDTR_LIMIT: 0xFFFF, IDTR_LIMIT: 0xFFF, IDTR: GUEST_IDT, DR7: 0x400}
    fields |= {RSP: GUEST_STACK, RIP: GUEST, RFLAGS: 2, IO_MAP_A: PORTS, IO_MAP_B: PORTS + 0x1000}
    fields |= {MSR_MAP_FIELD: MSR_MAP, EPT_POINTER: EPT | 0x1E, HOST_TR_BASE: SGDT}
    return fields


def table(fields: Mapping[int, int]) -> bytes:
    """Fields and their values, for `make_block`."""
    return b"".join(struct.pack("<QQ", field, value) for field, value in fields.items())


#: The fields of every test's VMCS that are known when it is put together.
PLAIN = _plain()


def make_block(fields: Mapping[int, int] | None = None) -> bytes:
    """Fills the current VMCS: PLAIN, from TABLE; what the hypervisor's own registers have; then these fields."""
    # 1: mov (%rsi), %rdx; mov 8(%rsi), %rax; vmwrite; add $16, %rsi; dec %rcx; jnz 1b
    loop = b"\x48\x8b\x16\x48\x8b\x46\x08" + VMWRITE + b"\x48\x83\xc6\x10\x48\xff\xc9"
    code = rsi(TABLE) + b"\x48\xb9" + struct.pack("<Q", len(PLAIN)) + loop + b"\x75" + bytes([256 - len(loop) - 2])
    for number, guest, host in ((0, CR0, HOST_CR0), (3, CR3, HOST_CR3), (4, CR4, HOST_CR4)):
        code += control_register(number) + vmwrite_rax(guest) + vmwrite_rax(host)
    code += rdi(SGDT) + b"\x0f\x01\x07" + load(SGDT + 2) + vmwrite_rax(GDTR) + vmwrite_rax(HOST_GDTR)
    code += rdi(SGDT) + b"\x0f\x01\x0f" + load(SGDT + 2) + vmwrite_rax(HOST_IDTR)
    return code + b"".join(vmwrite(field, value) for field, value in (fields or {}).items())


def enter(instruction: bytes = VMRESUME) -> bytes:
    """Enters the guest; behind it, after its exit, FLAGS has 0, or RFLAGS when the instruction failed."""
    failed = PUSHF + POP_RAX + store_rax(FLAGS)
    code = store(FLAGS, 0) + b"\x48\x89\xe0" + vmwrite_rax(HOST_RSP)
    behind = rdx(HOST_RIP) + VMWRITE + instruction + failed
    return code + b"\x48\x8d\x05" + struct.pack("<I", len(behind)) + behind


def launch() -> bytes:
    return enter(VMLAUNCH)


def skip() -> bytes:
    """Moves the guest behind the instruction that it stopped at."""
    return vmread(LENGTH) + b"\x48\x89\xc3" + vmread(RIP) + b"\x48\x01\xd8" + vmwrite_rax(RIP)


def with_field(field: int, value: int, body: bytes) -> bytes:
    """`body` while a field of the current VMCS has another value."""
    return with_fields({field: value}, body)


def with_fields(fields: Mapping[int, int], body: bytes) -> bytes:
    """`body` while fields of the current VMCS have other values."""
    before = b"".join(vmread(field) + PUSH_RAX + vmwrite(field, value) for field, value in fields.items())
    after = b"".join(POP_RAX + vmwrite_rax(field) for field in reversed(list(fields)))
    return before + body + after


def without_paging() -> bytes:
    """In 32-bit code, for 64-bit code needs paging: clears CR0.PG and sets it again.

    A handler of the fault goes on at R9, behind that.
    """
    descriptors = (0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF)
    code = b"".join(store(GDT + 8 * number, one) for number, one in enumerate(descriptors))
    code += store(GDT + 0x30, 0x27 | GDT << 16) + store(GDT + 0x38, 0) + rdi(GDT + 0x30) + b"\x0f\x01\x17"
    # mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0; or $0x80000000, %eax; mov %eax, %cr0
    body = b"\x0f\x20\xc0\x25\xff\xff\xff\x7f\x0f\x22\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"
    # push $0x20, the 32-bit code; lea 3(%rip), %rax; push %rax; lretq; ...; lret
    there = b"\x6a\x20\x48\x8d\x05\x03\x00\x00\x00\x50\x48\xcb" + body + b"\xcb"
    # the 32-bit lret takes what is pushed as one: CODE_SELECTOR and where `there` ends
    back = rdx(CODE_SELECTOR << 32) + b"\x48\x09\xd0\x50"
    goes_on = b"\x4c\x8d\x0d" + struct.pack("<I", len(there) - 1)  # lea (%rip), %r9: the lret
    return code + b"\x48\x8d\x05" + struct.pack("<I", len(back + goes_on + there)) + back + goes_on + there


def guest_handlers() -> bytes:
    """At GUEST_IDT: a gate for each vector to a stub that does VMCALL with the vector in RAX, at CPL 0."""
    gates = b""
    for vector in range(256):
        at = GUEST_STUBS + 16 * vector
        gates += struct.pack("<HHBBHII", at & 0xFFFF, 0x10, 0, 0x8E, at >> 16, 0, 0)
    stubs = b"".join((b"\xb8" + struct.pack("<I", vector) + VMCALL).ljust(16, b"\x90") for vector in range(256))
    return gates.ljust(GUEST_STUBS - GUEST_IDT, b"\0") + stubs


def image(code: bytes, guest: bytes, base: int = 0x100000) -> bytes:
    """The hypervisor's code at `base` with PLAIN at TABLE, its guest's at GUEST, and the guest's handlers.

    The code's own handlers may lie below VMXON_REGION; see guest_code.with_handlers.
    """
    if base + len(code) > VMXON_REGION or GUEST + len(guest) > GUEST_STACK - 0x1000:
        raise ValueError("the code reaches into its tables")
    whole = code.ljust(TABLE - base, b"\0") + table(PLAIN)
    return (whole.ljust(GUEST - base, b"\0") + guest).ljust(GUEST_IDT - base, b"\0") + guest_handlers()


def fields_of(numbers: Iterable[int]) -> int:
    """Bits of a field of controls."""
    return sum(1 << number for number in numbers)


__all__ = [name for name in dir() if not name.startswith("_")] + ["RESULTS"]
