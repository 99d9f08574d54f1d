"""Runs in the VMX lab: hypervisors in machine code at level 1, and their guests; prints what they kept, as JSON."""

from __future__ import annotations

import sys

import vmx_code as vmx
from guest_code import cpuid, done, keep, load, out, rax, rcx, rdmsr, rdx, store, with_handlers, wrmsr
from nested_vmx_chain import CHAIN_CASES
from nested_vmx_events import EVENT_CASES
from nested_vmx_random import RANDOM_CASES
from nested_vmx_rules import CONTROLS, GUEST_STATE, HOST_STATE
from nested_vmx_run import SECONDARY_ON, ept_tables, run
from nested_vmx_try import BEGIN, FAULTS, INVALIDATIONS, at_result, errored, invalidations, tried
from print_cases import print_cases
from vmx_code import (
    VMCALL,
    enable,
    enter,
    image,
    keep_field,
    keep_fields,
    launch,
    make_block,
    skip,
    vmwrite,
    vmwrite_rax,
    with_fields,
    without_paging,
)


def _answering() -> bytes:
    """Level 1 answers level 2's CPUID by 0x1234. What the VMCS has for an abort is of no account."""
    code = (
        enable()
        + store(vmx.REGION + 4, 7, 4)
        + make_block()
        + launch()
        + keep_fields(0, vmx.REASON, vmx.LENGTH)
        + skip()
    )
    return code + enter(rax(0x1234) + vmx.VMRESUME) + done(9)


HOLE = 0x3FFFF000


def verdict(number: int) -> bytes:
    """Four results of a VMLAUNCH: its flags, VM-instruction error, exit reason, exit qualification."""
    return load(vmx.FLAGS) + keep(number) + keep_fields(number + 1, vmx.ERROR, vmx.REASON, vmx.QUALIFICATION)


def rules(name: str) -> dict[str, object]:
    """Each broken rule, then at last the VMCS without any."""
    chosen = {
        "controls": CONTROLS,
        "host": HOST_STATE,
        "guest": {name: fields for name, (_, fields) in GUEST_STATE.items()},
    }[name]
    code = enable() + make_block()
    for number, fields in enumerate(chosen.values()):
        code += with_fields(fields, launch() + verdict(4 * number))
    code += launch() + verdict(4 * len(chosen)) + done()
    return {**run(image(code, VMCALL), 4 * len(chosen) + 4), "names": list(chosen)}


def ports() -> dict[str, object]:
    """Port 0x5003 is in the bitmap: accesses that touch it, and no others; then all: without bitmaps, or memory."""
    code = enable() + store(vmx.PORTS + 0x5000 // 8, 1 << 3, 1) + store(vmx.PORTS + 0x1000 + 0x5003 // 8, 0xFF, 1)
    code += make_block({vmx.PRIMARY: vmx.PRIMARY_PLAIN | 1 << 25})
    accesses = [(0x5003, b"\xee"), (0x5002, b"\x66\xef"), (0x5000, b"\xef"), (0x5003, b"\xec"), (0x5001, b"\x66\xed")]
    guest = b"".join(rdx(port) + rax(0x11223344) + opcode for port, opcode in accesses)
    for number in range(4):
        code += (
            (launch() if not number else enter())
            + keep_fields(3 * number, vmx.REASON, vmx.QUALIFICATION, vmx.RIP)
            + skip()
        )
    code += enter() + keep_field(12, vmx.REASON) + skip()
    code += vmwrite(vmx.PRIMARY, vmx.PRIMARY_PLAIN | 1 << 24) + enter() + keep_fields(13, vmx.REASON, vmx.QUALIFICATION)
    code += (
        vmwrite(vmx.PRIMARY, vmx.PRIMARY_PLAIN | 1 << 25) + vmwrite(vmx.IO_MAP_A, HOLE) + vmwrite(vmx.IO_MAP_B, HOLE)
    )
    code += enter() + keep_field(15, vmx.REASON)
    return run(image(code + done(), guest + VMCALL + out(0x5001, 1)), 16)


def msrs() -> dict[str, object]:
    """Writes of STAR and reads of a low MSR exit; what the map has no bits for does, too; without it all do."""
    code = enable() + make_block({vmx.PRIMARY: vmx.PRIMARY_PLAIN | 1 << 28})
    code += store(vmx.MSR_MAP + 0xC00 + 0x81 // 8, 1 << 0x81 % 8, 1) + store(vmx.MSR_MAP + 0x174 // 8, 1 << 4, 1)
    guest = rdmsr(0xC0000081) + wrmsr(0xC0000081, 0x1122334455667788) + wrmsr(0x174, 8) + rdmsr(0x174)
    guest += rdmsr(0x4E570000) + VMCALL + rdmsr(0xC0000081)
    for number in range(3):
        code += (launch() if not number else enter()) + b"\x48\x89\xc8" + keep(2 * number + 1)  # rcx
        code += keep_field(2 * number, vmx.REASON) + skip()
    code += enter() + keep_field(6, vmx.REASON) + rdmsr(0xC0000081) + keep(7) + keep_field(8, vmx.SYSENTER_CS) + skip()
    code += vmwrite(vmx.PRIMARY, vmx.PRIMARY_PLAIN) + enter() + keep_field(9, vmx.REASON)
    code += vmwrite(vmx.PRIMARY, vmx.PRIMARY_PLAIN | 1 << 28) + vmwrite(vmx.MSR_MAP_FIELD, HOLE)
    code += enter() + keep_field(10, vmx.REASON) + done()
    return run(image(code, guest), 11)


LEAF = vmx.EPT + 0x2008
INVEPT_ALL = rax(2) + vmx.rdi(vmx.POINTER) + vmx.INVEPT


def paging() -> dict[str, object]:
    """Level 2 reads and writes a page of 2 MiB; then that is read-only, not executable, absent, misconfigured."""
    told = (vmx.REASON, vmx.QUALIFICATION, vmx.PHYSICAL, vmx.LINEAR)
    again = INVEPT_ALL + enter()
    code = enable() + ept_tables(0x200000 | 0xB7) + store(0x300000, 0xABCD)
    code += make_block({vmx.PRIMARY: SECONDARY_ON, vmx.SECONDARY: 2}) + launch() + keep(4) + keep_fields(0, *told)
    code += skip() + enter() + load(0x300008) + keep(5) + skip()
    code += store(LEAF, 0x200000 | 0xB5) + again + keep_fields(8, *told) + store(LEAF, 0x200000 | 0xB3) + again + skip()
    code += again + keep_fields(12, *told) + vmwrite(vmx.RIP, vmx.GUEST)
    for number, entry in enumerate(
        (0, 0x200000 | 0xB2, 0x200000 | 0xB4, 0x200000 | 0x97, 0x201000 | 0xB7, 1 << 51 | 0xB7)
    ):
        code += store(LEAF, entry) + vmwrite(vmx.RIP, vmx.GUEST) + again + keep_fields(16 + 4 * number, *told)
    code += store(LEAF, 0x200000 | 0xB7) + store(vmx.EPT, (vmx.EPT + 0x1000) | 0x87) + again + keep_fields(40, *told)
    code += vmwrite(vmx.EPT_POINTER, 0x3FFFF01E) + enter() + keep_fields(44, *told)
    # a table that is its own: each level finds it again
    code += store(vmx.EPT, vmx.EPT | 7) + vmwrite(vmx.EPT_POINTER, vmx.EPT | 0x1E) + again + keep_fields(48, *told)
    code += store(vmx.EPT, (vmx.EPT + 0x1000) | 0x47) + again + keep_fields(52, *told) + done()
    guest = load(0x300000) + VMCALL + store(0x300008, 0x77) + VMCALL + store(0x300010, 1) + VMCALL
    return run(image(code, guest + b"\x48\xc7\xc0\x00\x00\x30\x00\xff\xe0"), 56)


def pointers() -> dict[str, object]:
    """A guest with PAE paging that has no EPT: its page-directory pointers are where its CR3 says; then one is wrong.

    It reads by the second one. Those that its block has are wrong from the beginning.
    """
    table, directory = vmx.EPT + 0x20, vmx.EPT + 0x1000
    code = enable() + store(table, directory | 1) + store(table + 8, directory | 1) + store(directory, 0x83)
    code += store(table + 16, 0) + store(table + 24, 0) + store(0x121000, 0x1234)
    fields = {vmx.ENTRY: vmx.ENTRY_PLAIN & ~(1 << 9), vmx.RIGHTS + 2: 0xC09B, vmx.CR3: table, vmx.PDPTE0: 7}
    code += make_block(fields) + launch() + keep(1) + keep_fields(0, vmx.REASON)
    code += store(table + 24, directory | 3) + skip() + enter() + keep_fields(2, vmx.REASON, vmx.QUALIFICATION) + done()
    guest = b"\xa1\x00\x10\x12\x40"  # mov 0x40121000, %eax
    return run(image(code, guest + VMCALL), 4)


def registers() -> dict[str, object]:
    """Masks and shadows of CR0 and CR4, CR3 targets, and what a guest may write unseen."""
    told = (vmx.REASON, vmx.QUALIFICATION, vmx.RIP)
    fields = {vmx.CR0_MASK: 8, vmx.CR0_SHADOW: 8, vmx.CR4_MASK: 0x2004, vmx.CR4_SHADOW: 4, vmx.CR3_TARGETS: 2}
    fields |= {vmx.CR3_TARGET: 0x12345000, vmx.PRIMARY: vmx.PRIMARY_PLAIN | 1 << 15}
    code = enable() + make_block(fields) + vmx.control_register(3) + vmwrite_rax(vmx.CR3_TARGET + 2)
    guest = vmx.control_register(0) + keep(0) + vmx.control_register(4) + keep(1)
    guest += vmx.control_register(3) + vmx.set_control_register(3)  # a target: no exit
    guest += vmx.control_register(0) + b"\x48\x83\xc8\x02" + vmx.set_control_register(0)  # MP is its own
    guest += vmx.control_register(0) + b"\x48\x83\xe0\xf7" + vmx.set_control_register(0)  # TS is not: exit
    guest += vmx.control_register(4) + b"\x48\x83\xe0\xfb" + vmx.set_control_register(4)  # TSD: exit
    guest += vmx.control_register(3) + b"\x48\x83\xc8\x08" + vmx.set_control_register(3)  # no target: exit
    guest += b"\x0f\x06" + VMCALL  # CLTS: exit, for the shadow has TS
    for number in range(4):
        code += (launch() if not number else enter()) + keep_fields(4 + 3 * number, *told) + skip()
    code += enter() + keep_fields(16, vmx.REASON, vmx.CR0, vmx.CR4) + done()
    return run(image(code, guest), 19)


def instructions() -> dict[str, object]:
    """Flags of each instruction, or the vector of its fault: results are RFLAGS & 0x41, or 0x100 + vector."""

    at = vmx.point
    unpaged = without_paging()
    code = BEGIN
    everything = [at(vmx.VMXON_REGION) + vmx.VMXON, at(vmx.REGION) + vmx.VMCLEAR, at(vmx.REGION) + vmx.VMPTRLD]
    everything += [vmx.rdi(vmx.POINTER) + vmx.VMPTRST, vmx.vmread(vmx.RIP), vmwrite(vmx.RIP, 1), vmx.VMLAUNCH]
    everything += [vmx.VMRESUME, vmx.VMXOFF, INVEPT_ALL, rax(2) + vmx.rdi(vmx.POINTER) + vmx.INVVPID, VMCALL]
    for body in everything:
        code += tried(body)  # 0 to 11: CR4.VMXE is clear
    cr4 = vmx.control_register(4) + b"\x48\x0d\x00\x20\x00\x00" + vmx.set_control_register(4)
    cr0 = vmx.control_register(0) + b"\x48\x83\xc8\x20" + vmx.set_control_register(0)
    code += vmx.control_register(0) + b"\x48\x83\xe0\xdf" + vmx.set_control_register(0)
    code += cr4 + tried(everything[0])  # 12: FEATURE_CONTROL is not locked
    code += tried(wrmsr(vmx.FEATURE_CONTROL, 2)) + wrmsr(vmx.FEATURE_CONTROL, 5)  # 13
    code += tried(wrmsr(vmx.FEATURE_CONTROL, 0))  # 14: locked
    code += tried(everything[0])  # 15: CR0.NE is clear
    code += cr0 + tried(at(vmx.VMXON_REGION + 8) + vmx.VMXON) + tried(at(1 << 50) + vmx.VMXON)  # 16, 17
    code += tried(at(vmx.VMXON_REGION) + vmx.VMXON)  # 18: no revision there
    code += store(vmx.VMXON_REGION, vmx.REVISION, 4) + tried(at(vmx.VMXON_REGION) + vmx.VMXON)  # 19
    code += tried(vmx.vmread(vmx.RIP)) + tried(vmx.VMLAUNCH) + tried(VMCALL)  # 20 to 22: no current VMCS
    code += tried(at(vmx.REGION) + vmx.VMPTRLD) + store(vmx.REGION, vmx.REVISION, 4)  # 23
    code += tried(at(vmx.REGION) + vmx.VMCLEAR) + tried(at(vmx.REGION) + vmx.VMPTRLD)  # 24, 25
    for body in (
        at(vmx.REGION + 8) + vmx.VMPTRLD, at(vmx.VMXON_REGION) + vmx.VMPTRLD, at(0x3FFFF000) + vmx.VMPTRLD,
        at(1 << 50) + vmx.VMCLEAR, at(vmx.VMXON_REGION) + vmx.VMCLEAR, at(vmx.VMXON_REGION) + vmx.VMXON,
        VMCALL, vmx.vmread(0x6C40), vmwrite(0x6C40, 1), vmwrite(vmx.REASON, 1), vmx.vmread(1 << 20),
        vmx.VMRESUME, rax(0) + vmx.rdi(vmx.POINTER) + vmx.INVEPT, rax(1) + vmx.rdi(vmx.POINTER) + vmx.INVEPT,
        rax(4) + vmx.rdi(vmx.POINTER) + vmx.INVVPID,
        store(vmx.POINTER, 0) + rax(1) + vmx.rdi(vmx.POINTER) + vmx.INVVPID, b"\x8c\xd0\x8e\xd0" + vmx.VMLAUNCH,
    ):  # fmt: skip
        code += errored(body)  # 26 to 59
    code += tried(INVEPT_ALL) + tried(
        store(vmx.POINTER, 1) + store(vmx.POINTER + 8, 0) + rax(1) + vmx.rdi(vmx.POINTER) + vmx.INVVPID
    )
    code += tried(vmx.rdi(1 << 60) + vmx.VMPTRLD) + tried(vmx.rdi(1 << 40) + vmx.VMPTRST)  # 62, 63
    code += tried(vmx.control_register(4) + b"\x48\x25\xff\xdf\xff\xff" + vmx.set_control_register(4))  # 64
    code += tried(vmx.control_register(0) + b"\x48\x83\xe0\xdf" + vmx.set_control_register(0))  # 65
    code += at_result(99) + unpaged + at_result(66)
    code += store(vmx.POINTER, 0) + vmx.rdi(vmx.POINTER) + vmx.VMPTRST + load(vmx.POINTER) + keep(70)
    code += vmwrite(0x2010, 0x1111222233334444) + vmwrite(0x2011, 0x55556666) + keep_fields(71, 0x2010, 0x2011)
    code += (
        vmwrite(vmx.VPID, 0x12345) + keep_field(73, vmx.VPID) + vmwrite(vmx.PIN, 0x123456789) + keep_field(74, vmx.PIN)
    )
    # a VMREAD to memory and a VMWRITE from there
    code += vmx.rdi(vmx.POINTER) + rdx(vmx.VPID) + b"\x0f\x78\x17" + load(vmx.POINTER) + keep(75)
    code += (
        store(vmx.POINTER, 0x777) + vmx.rdi(vmx.POINTER) + rdx(vmx.VPID) + b"\x0f\x79\x17" + keep_field(76, vmx.VPID)
    )
    code += tried(at(vmx.REGION) + vmx.VMCLEAR) + tried(vmx.vmread(vmx.VPID))  # 66, 67
    code += tried(vmx.VMXOFF) + tried(vmx.vmread(vmx.VPID)) + at_result(100) + unpaged  # 68, 69
    code += b"".join(rdmsr(0x480 + i) + keep(80 + i) for i in range(17)) + cpuid(1) + b"\x89\xc8" + keep(97)
    code += vmx.control_register(4) + keep(98) + done()
    return run(with_handlers(code, FAULTS), 101)


# SYSENTER_ESP and SYSENTER_EIP that are not canonical, DEBUGCTL with a reserved bit: WRMSR faults.
REFUSED_MSRS = [(0x175, 1 << 60), (0x176, 1 << 47), (0x1D9, 1 << 5)]


def msr_lists() -> dict[str, object]:
    """An entry loads STAR, an exit stores it and loads another; then an entry that fails at its second element."""
    entry, stored, loaded = vmx.MSR_LIST, vmx.MSR_LIST + 0x100, vmx.MSR_LIST + 0x200
    star, lstar = 0xC0000081, 0xC0000082
    code = enable() + store(entry, star) + store(entry + 8, 0x11) + store(stored, star) + store(loaded, star)
    code += store(loaded + 8, 0x33)
    lists = {vmx.ENTRY_LOADS: entry, vmx.EXIT_STORES: stored, vmx.EXIT_LOADS: loaded}
    counts = {vmx.ENTRY_COUNT: 1, vmx.STORE_COUNT: 1, vmx.LOAD_COUNT: 1, vmx.PRIMARY: vmx.PRIMARY_PLAIN | 1 << 28}
    code += make_block(lists | counts) + launch() + keep_field(0, vmx.REASON) + load(stored + 8) + keep(1)
    code += rdmsr(star) + keep(2) + store(entry + 16, 0xC0000100) + store(entry + 24, 1) + vmwrite(vmx.ENTRY_COUNT, 2)
    code += enter() + keep_fields(4, vmx.REASON, vmx.QUALIFICATION)
    code += store(entry + 16, lstar) + store(entry + 20, 1, 4) + enter() + keep_fields(6, vmx.REASON, vmx.QUALIFICATION)
    code += store(entry + 16, 0x4B564D00) + enter() + keep_fields(8, vmx.REASON, vmx.QUALIFICATION)
    for number, (index, value) in enumerate(REFUSED_MSRS):
        code += store(entry + 16, index) + store(entry + 24, value) + enter()
        code += keep_fields(12 + 2 * number, vmx.REASON, vmx.QUALIFICATION)
    code += store(entry + 16, lstar) + store(entry + 24, 1) + skip() + enter() + keep_field(10, vmx.REASON) + done()
    guest = rdmsr(star) + keep(3) + wrmsr(star, 0x22) + VMCALL + rdmsr(lstar) + keep(11) + VMCALL
    return run(image(code, guest), 12 + 2 * len(REFUSED_MSRS))


def long_list() -> dict[str, object]:
    """An entry that fails, whose exit has one MSR more to load than any processor recommends; that is none."""
    first, star = 0x200000, 0xC0000081
    # 1: stosq; stosq; loop 1b
    code = vmx.rdi(first) + rax(star) + rcx(4096) + b"\x48\xab\x48\xab\xe2\xfa"
    code += enable() + make_block({vmx.LOAD_COUNT: 4097, vmx.EXIT_LOADS: first, vmx.RFLAGS: 0}) + launch()
    return run(image(code + keep_field(0, vmx.REASON) + rdmsr(star) + keep(1) + done(), VMCALL), 2)


def mode() -> dict[str, object]:
    """EFER and PAT by their controls: the guest has its own, the host gets its back."""
    controls = {
        vmx.ENTRY: vmx.ENTRY_PLAIN | 3 << 14,
        vmx.EXIT: vmx.EXIT_PLAIN | 15 << 18,
        vmx.EFER: 0xD01,
        vmx.PAT: 0x0606,
    }
    controls |= {vmx.HOST_EFER: 0x500, vmx.HOST_PAT: 0x0007040600070406, vmx.PRIMARY: vmx.PRIMARY_PLAIN | 1 << 28}
    code = enable() + make_block(controls) + launch() + keep_fields(2, vmx.REASON, vmx.EFER, vmx.PAT)
    code += rdmsr(0xC0000080) + keep(5) + rdmsr(0x277) + keep(6) + done()
    guest = rdmsr(0xC0000080) + keep(0) + rdmsr(0x277) + keep(1) + wrmsr(0x277, 0x0404) + VMCALL
    return run(image(code, guest), 7)


def instruction_controls() -> dict[str, object]:
    """Each instruction exits by its own control, and not without it."""
    cases = {
        7: (0, b"\xf4"), 9: (0, b"\x0f\x01\x3f"), 10: (0, b"\x0f\x01\xc9"), 11: (0, b"\x0f\x33"),
        23: (0, b"\x0f\x23\xf8"),
        29: (0, b"\x0f\x01\xc8"), 30: (0, b"\xf3\x90"), 16: (0, b"\x0f\x20\xd8"), 20: (0, b"\x44\x0f\x20\xc0"),
        32 + 2: (1, b"\x0f\x01\x07"), 32 + 6: (1, b"\x0f\x09"), 32 + 11: (1, b"\x0f\xc7\xf0"),
    }  # fmt: skip
    code = enable() + make_block({vmx.PRIMARY: SECONDARY_ON, vmx.SECONDARY: 1 << 3})
    guest = b""
    for number, (bit, (kind, body)) in enumerate(cases.items()):
        at = vmx.GUEST + 0x100 * number
        guest = (
            guest.ljust(0x100 * number, b"\x90") + rcx(0) + rax(0x400 if bit == 23 else 0x120000) + vmx.rdi(0x121000)
        )
        guest += body + VMCALL
        primary = SECONDARY_ON | (1 << bit if kind == 0 else 0)
        secondary = 1 << 3 | (1 << bit - 32 if kind else 0)
        code += vmwrite(vmx.RIP, at) + vmwrite(vmx.PRIMARY, primary) + vmwrite(vmx.SECONDARY, secondary)
        code += (launch() if not number else enter()) + keep_field(2 * number, vmx.REASON)
        if bit == 7:
            code += vmwrite(vmx.RIP, vmx.GUEST + 0x1F)
        code += vmwrite(vmx.RIP, at) * (bit != 7) + vmwrite(vmx.PRIMARY, SECONDARY_ON) + vmwrite(vmx.SECONDARY, 1 << 3)
        code += enter() + keep_field(2 * number + 1, vmx.REASON)
    # without its control RDTSCP is undefined, which the guest's handler tells
    at = vmx.GUEST + len(guest)
    code += vmwrite(vmx.RIP, at) + enter() + keep_field(30, vmx.REASON) + keep_field(31, vmx.RIP)
    code += vmwrite(vmx.RIP, at) + vmwrite(vmx.SECONDARY, 0) + enter() + keep(32)
    return {**run(image(code + done(), guest + b"\x0f\x01\xf9" + VMCALL), 33), "bits": list(cases)}


def abort(count: int, field: int, at: int) -> dict[str, object]:
    """An exit that cannot go through a list of MSRs, of which the memory has one that WRMSR would not take."""
    fields = {count: 1, field: at}
    code = enable() + store(vmx.MSR_LIST, 0x176) + store(vmx.MSR_LIST + 8, 1 << 60) + make_block(fields)
    return run(image(code + launch() + done(1), VMCALL), 0)


def invalidating() -> dict[str, object]:
    """INVEPT and INVVPID of every type."""
    count = sum(map(len, INVALIDATIONS.values()))
    return run(with_handlers(enable() + BEGIN + invalidations() + done(), FAULTS), 2 * count)


CASES = {
    "invalidations": invalidating,
    "first": lambda: run(image(_answering(), cpuid(0x77) + keep(3) + done(3)), 4),
    "instructions": instructions,
    "controls": lambda: rules("controls"),
    "host": lambda: rules("host"),
    "guest": lambda: rules("guest"),
    "ports": ports,
    "msrs": msrs,
    "msr lists": msr_lists,
    "long list": long_list,
    "mode": mode,
    "abort of storing": lambda: abort(vmx.STORE_COUNT, vmx.EXIT_STORES, HOLE),
    "abort of loading": lambda: abort(vmx.LOAD_COUNT, vmx.EXIT_LOADS, vmx.MSR_LIST),
    "pointers": pointers,
    "paging": paging,
    "registers": registers,
    "controls of instructions": instruction_controls,
    **EVENT_CASES,
    **CHAIN_CASES,
    **RANDOM_CASES,
}

if __name__ == "__main__":
    print_cases(CASES, sys.argv[1:])
