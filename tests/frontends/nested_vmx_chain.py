"""Cases of a hypervisor at level 2 on one at level 1, and its guest at level 3. See nested_vmx_cases.py.

Level 1 gives level 2 the second half of its memory, which starts as a copy of the first; so both use the same places.
"""

from __future__ import annotations

import struct

import vmx_code as vmx
from guest_code import POP_RAX, RESULTS, done, keep, rax, rcx, rdi, rsi, store
from nested_run import MEMORY
from nested_vmx_run import SECONDARY_ON, run
from vmx_code import (
    VMCALL,
    enable,
    enter,
    image,
    keep_fields,
    launch,
    make_block,
    skip,
    vmwrite,
    vmwrite_rax,
    without_paging,
)

HALF = MEMORY // 2
LEVEL_2 = 0x180000  # its code
STACK_2 = 0x1A0000
MP, EM, TS, WP = 1 << 1, 1 << 2, 1 << 3, 1 << 16
TSD, DE = 1 << 2, 1 << 3
EPT, UNRESTRICTED = 1 << 1, 1 << 7
USES_MSR_MAP = 1 << 28


def set_bits(number: int, bits: int) -> bytes:
    """CRn |= bits."""
    return vmx.control_register(number) + b"\x48\x0d" + struct.pack("<I", bits) + vmx.set_control_register(number)


def chain(
    fields: dict[int, int], level_1: bytes, level_2: bytes, level_3: bytes = b"", kept: tuple[int, int] = (0, 0)
) -> dict[str, object]:
    """Level 1 has `fields` in its VMCS, and goes on with `level_1` after the first exit.

    kept: how many results level 1 has, and levels 2 and 3, whose come behind those.
    """
    pdpt, directory = vmx.EPT + 0x1000, vmx.EPT + 0x2000
    copy = b"\xf3\x48\xa5"  # rep movsq
    code = rsi(0) + rdi(HALF) + rcx(HALF // 8) + copy + enable()
    code += store(vmx.EPT, pdpt | 7) + store(pdpt, directory | 7) + store(directory, HALF | 0xB7)
    own = {vmx.PRIMARY: SECONDARY_ON | USES_MSR_MAP, vmx.SECONDARY: EPT, vmx.RIP: LEVEL_2, vmx.RSP: STACK_2}
    code += make_block(own | fields) + launch() + level_1
    code += rsi(HALF + RESULTS) + rdi(RESULTS + 8 * kept[0]) + rcx(kept[1]) + copy + done()
    base = 0x100000
    return run(image(code, level_3).ljust(LEVEL_2 - base, b"\0") + level_2, sum(kept))


def masks() -> dict[str, object]:
    """Level 1 keeps CR0.TS, CR0.WP and CR4.TSD for itself, level 2 CR0.MP, CR0.WP and CR4.DE; level 3 writes each.

    Level 2 shows level 3 a WP that is clear in truth. Level 1 lets level 3 set TS, and nothing else.
    """
    told = (vmx.REASON, vmx.QUALIFICATION, vmx.CR0)
    level_3 = vmx.control_register(0) + keep(0) + set_bits(0, MP) + set_bits(0, TS) + vmx.control_register(0) + keep(1)
    level_3 += b"\x0f\x06" + rax(1) + b"\x0f\x01\xf0" + rax(0xB) + b"\x0f\x01\xf0"  # clts; lmsw %ax
    level_3 += set_bits(4, DE) + set_bits(4, TSD) + set_bits(0, EM) + VMCALL
    shows = {vmx.CR0_MASK: MP | WP, vmx.CR0_SHADOW: WP, vmx.CR4_MASK: DE}
    level_2 = enable() + make_block(shows) + launch()
    for number in range(4):
        level_2 += keep_fields(2 + 3 * number, *told) + (skip() + enter() if number < 3 else VMCALL)
    # RAX is what level 3 writes
    level_1 = vmwrite_rax(vmx.CR0) + vmwrite_rax(vmx.CR0_SHADOW)
    for number in range(5):
        level_1 += keep_fields(3 * number, *told) + (skip() + enter() if number < 4 else b"")
    fields = {vmx.CR0_MASK: TS | WP, vmx.CR4_MASK: TSD}
    return chain(fields, level_1, level_2, level_3, (15, 14))


def held() -> dict[str, object]:
    """Level 2 switches paging off: as unrestricted guest, as another one, in VMX operation, and there watched."""
    off = without_paging() + rax(1) + VMCALL
    unrestricted = EPT | UNRESTRICTED
    level_2 = off + enable() + off
    ways = [(EPT, LEVEL_2, 0), (unrestricted, LEVEL_2 + len(off), 0)]
    ways += [(unrestricted, LEVEL_2 + len(off + enable()), 1 << 13)]
    level_1 = keep(0)
    for number, (secondary, at, exceptions) in enumerate(ways, start=1):
        level_1 += vmwrite(vmx.SECONDARY, secondary) + vmwrite(vmx.RIP, at) + vmwrite(vmx.RSP, STACK_2)
        level_1 += vmwrite(vmx.EXCEPTIONS, exceptions) + enter() + keep(number)
    level_1 += keep_fields(4, vmx.REASON, vmx.INTERRUPTION)
    return chain({vmx.SECONDARY: unrestricted}, level_1, level_2, kept=(6, 0))


def true_bits() -> dict[str, object]:
    """Level 1 has CR0.TS and CR4.TSD set in truth, CR0.WP and CR4.DE clear, and shows level 2 each the other way round.

    Level 2 enters level 3 with what it sees. Level 3 sets CR4.TSD, which level 1 lets it see, and no more.
    """
    plain, plain_4 = 0x80000031, 0x2020
    fields = {vmx.CR0_MASK: TS | WP, vmx.CR0_SHADOW: WP, vmx.CR0: plain | TS}
    fields |= {vmx.CR4_MASK: TSD | DE, vmx.CR4_SHADOW: DE, vmx.CR4: plain_4 | TSD}
    told = (vmx.REASON, vmx.CR0, vmx.CR4)
    level_3 = vmx.control_register(0) + keep(0) + vmx.control_register(4) + keep(1) + VMCALL
    level_3 += set_bits(4, TSD) + vmx.control_register(4) + keep(2) + VMCALL
    level_2 = vmx.control_register(0) + keep(3) + vmx.control_register(4) + keep(4) + enable() + make_block() + launch()
    level_2 += keep_fields(5, *told) + skip() + enter() + keep_fields(8, *told)
    level_2 += vmx.control_register(0) + keep(11) + vmx.control_register(4) + keep(12) + VMCALL
    level_1 = vmwrite_rax(vmx.CR4_SHADOW) + keep_fields(0, *told) + skip() + enter() + keep_fields(3, *told)
    return chain(fields, level_1, level_2, level_3, (6, 13))


# Instructions whose operands are in R10 and R11, which level 1 leaves alone: they happen again after it.
FIELD, VALUE = b"\x49\xba", b"\x49\xbb"
VMREAD_AGAIN, VMWRITE_AGAIN, READ = b"\x45\x0f\x78\xd3", b"\x45\x0f\x79\xd3", b"\x4c\x89\xd8"
STOP = b"\xe6\x80"  # out %al, $0x80, which is level 1's
STORES, LOADS, ENTRY_LOADS = vmx.MSR_LIST, vmx.APIC_PAGE, vmx.GDT
# The pages that level 1 takes, one at each stop.
TAKEN = [vmx.REGION] * 5 + [STORES, ENTRY_LOADS, LOADS]


def withdrawn() -> dict[str, object]:
    """Level 1 takes pages from level 2 that its VMX needs, and gives each back when that is missing.

    They are its VMCS, when level 3 exits, at VMREAD, VMWRITE, an instruction that fails, and VMRESUME; then the lists
    of MSRs of an exit, of an entry, and of an exit.
    """
    pages = vmx.EPT + 0x3000
    # mov $pages, %rdi; mov $HALF | 0x37, %rax; mov $512, %ecx; 1: stosq; add $0x1000, %rax; loop 1b
    level_1 = keep_fields(0, vmx.REASON) + rdi(pages) + rax(HALF | 0x37) + rcx(512)
    level_1 += b"\x48\xab\x48\x05\x00\x10\x00\x00\xe2\xf6" + store(vmx.EPT + 0x2000, pages | 7)
    level_1 += store(vmx.PORTS + 0x80 // 8, 1, 1) + skip() + enter()
    for number, page in enumerate(TAKEN):
        entry = pages + 8 * (page >> 12)
        level_1 += skip() + store(entry, 0) + rax(2) + rdi(vmx.POINTER) + vmx.INVEPT + enter()
        level_1 += keep_fields(3 * number + 1, vmx.REASON, vmx.QUALIFICATION, vmx.PHYSICAL)
        level_1 += store(entry, HALF + page | 0x37) + enter()
    level_1 += keep_fields(3 * len(TAKEN) + 1, vmx.REASON)
    level_2 = VMCALL + enable() + b"".join(store(one, 0xC0000082) for one in (STORES, LOADS, ENTRY_LOADS))
    level_2 += make_block({vmx.VPID: 5}) + launch() + keep_fields(0, vmx.REASON, vmx.RIP)
    level_2 += FIELD + struct.pack("<Q", vmx.VPID) + STOP + VMREAD_AGAIN + READ + keep(2)
    level_2 += VALUE + struct.pack("<Q", 7) + STOP + VMWRITE_AGAIN + keep_fields(3, vmx.VPID)
    level_2 += FIELD + struct.pack("<Q", 0x6C40) + STOP + VMREAD_AGAIN + keep_fields(4, vmx.ERROR) + skip()
    for count, at, field in (
        (vmx.STORE_COUNT, vmx.EXIT_STORES, STORES),
        (vmx.LOAD_COUNT, vmx.EXIT_LOADS, LOADS),
        (vmx.ENTRY_COUNT, vmx.ENTRY_LOADS, ENTRY_LOADS),
    ):
        level_2 += vmwrite(count, 1) + vmwrite(at, field)
    level_2 += (enter(STOP + vmx.VMRESUME) + skip()) * 2 + keep_fields(5, vmx.REASON, vmx.RIP) + STOP
    fields = {vmx.PRIMARY: SECONDARY_ON | USES_MSR_MAP | 1 << 25}
    return chain(fields, level_1, level_2, (STOP + VMCALL) * 3, (3 * len(TAKEN) + 2, 7))


ANEW = 0x190000  # code of level 2's, and of level 3's


def begun_anew() -> dict[str, object]:
    """Level 1 stops level 3 and moves RIP, RSP and CR3: alone, and with more that a new guest has.

    VMXON there tells who went on: level 2 hears of level 3's, and does its own, as it is not in VMX operation any more.
    """
    tables, stack = 0x1B0000, 0x1A8000
    copy = vmx.control_register(3) + b"\x48\x89\xc6" + rdi(HALF + tables) + rcx(512) + b"\xf3\x48\xa5"
    moved = vmwrite(vmx.RIP, ANEW) + vmwrite(vmx.RSP, stack) + vmwrite(vmx.CR3, tables)
    written = vmwrite(vmx.BASE + 2, 0) + vmwrite(vmx.GDTR, 0) + vmwrite(vmx.IDTR, 0)
    level_1 = store(vmx.PORTS + 0x80 // 8, 1, 1) + copy + skip() + enter() + keep_fields(0, vmx.REASON)
    level_1 += moved + enter() + keep(1) + keep_fields(2, vmx.REASON) + skip() + enter() + keep_fields(3, vmx.REASON)
    level_1 += moved + written + enter() + keep(4) + keep_fields(5, vmx.REASON)
    told = vmx.vmread(vmx.REASON) + b"\x48\x05\0\1\0\0" + VMCALL  # add $0x100, %rax
    again = vmwrite(vmx.RIP, vmx.GUEST) + vmwrite(vmx.RSP, vmx.GUEST_STACK)
    again += vmx.control_register(3) + vmwrite_rax(vmx.CR3) + enter()
    level_2 = VMCALL + enable() + make_block() + launch() + told + again + told
    flags = vmx.PUSHF + POP_RAX + b"\x48\x83\xe0\x41"
    anew = vmx.point(vmx.VMXON_REGION) + vmx.VMXON + flags + VMCALL
    fields = {vmx.PRIMARY: SECONDARY_ON | USES_MSR_MAP | 1 << 25}
    return chain(fields, level_1, level_2.ljust(ANEW - LEVEL_2, b"\x90") + anew, STOP + VMCALL, (6, 0))


CHAIN_CASES = {
    "true bits in a chain": true_bits,
    "begun anew in a chain": begun_anew,
    "masks in a chain": masks,
    "held in a chain": held,
    "withdrawn in a chain": withdrawn,
}
