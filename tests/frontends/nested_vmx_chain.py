"""Cases of a hypervisor at level 2 on one at level 1, and its guest at level 3. See nested_vmx_cases.py.

Level 1 gives level 2 the second half of its memory, which starts as a copy of the first; so both use the same places.
"""

from __future__ import annotations

import struct

import vmx_code as vmx
from guest_code import RESULTS, done, keep, rax, rcx, rdi, rsi, store
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


CHAIN_CASES = {"true bits in a chain": true_bits, "masks in a chain": masks, "held in a chain": held}
