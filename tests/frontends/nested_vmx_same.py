"""A hypervisor at level 2, above minivisor at level 1: what each of its VMX instructions and entries comes to."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import vmx_code as vmx
from guest_code import CODE, RESULTS, UD2, done, load, rax, rcx, rdx, store, with_handlers, wrmsr
from nested_vmx_run import SECONDARY_ON, ept_tables
from nested_vmx_try import BEGIN, FAULTS, STORE, errored, told, tried
from vmx_code import VMCALL, enter, image, launch, make_block, point, skip, vmread, vmwrite

from nestvmm.loaders.stack import Stacked, stack
from nestvmm.nesting import GuestSpec, Runner, Tower, TowerSpec

MINIVISOR = Path(__file__).resolve().parents[2] / "guests" / "minivisor" / "minivisor-vmx.elf"
OFFSET = 0x200000  # of level 2's memory in level 1's
MEMORY = 16 << 20

CPUID, RDMSR, OUT = b"\x0f\xa2", b"\x0f\x32", b"\xee"
LEAF = vmx.EPT + 0x2008
VERDICT = (vmx.ERROR, vmx.REASON, vmx.QUALIFICATION, vmx.RIP)
PLAIN = {vmx.EXIT: vmx.EXIT_PLAIN | 4, vmx.ENTRY: vmx.ENTRY_PLAIN | 4}  # debug controls are moved

# Level 3's; it is in the page tables of level 2, whose memory at 2 MiB it has by EPT.
GUEST = VMCALL + CPUID + rdx(0x5003) + OUT + rcx(0x174) + RDMSR + UD2 + VMCALL
PAGED = load(0x300000) + VMCALL + store(0x300008, 0x77) + VMCALL + store(0x300010, 1) + VMCALL


def _enable(locked: bool) -> bytes:
    code = b"" if locked else wrmsr(vmx.FEATURE_CONTROL, 5)
    code += vmx.control_register(0) + b"\x48\x83\xc8\x20" + vmx.set_control_register(0)
    code += vmx.control_register(4) + b"\x48\x0d" + struct.pack("<I", 1 << 13) + vmx.set_control_register(4)
    revision = rcx(vmx.VMX_BASIC) + RDMSR + b"\x25\xff\xff\xff\x7f"  # and $0x7fffffff, %eax
    code += tried(vmread(vmx.RIP)) + tried(point(vmx.VMXON_REGION + 8) + vmx.VMXON)
    code += tried(point(vmx.VMXON_REGION) + vmx.VMXON) + revision + vmx.store_rax(vmx.VMXON_REGION)
    code += tried(vmx.rdi(1 << 40) + vmx.VMXON) + tried(point(vmx.VMXON_REGION) + vmx.VMXON)
    code += tried(vmread(vmx.RIP)) + tried(vmx.VMLAUNCH) + tried(point(vmx.REGION) + vmx.VMPTRLD)
    code += revision + vmx.store_rax(vmx.REGION)
    return code + tried(point(vmx.REGION) + vmx.VMCLEAR) + tried(point(vmx.REGION) + vmx.VMPTRLD)


def _errors() -> bytes:
    code = b""
    pointer = vmx.rdi(vmx.POINTER)
    for body in (
        point(vmx.REGION + 8) + vmx.VMPTRLD, point(vmx.VMXON_REGION) + vmx.VMPTRLD, point(vmx.TABLE) + vmx.VMPTRLD,
        point(vmx.REGION + 8) + vmx.VMCLEAR, point(vmx.VMXON_REGION) + vmx.VMCLEAR, point(vmx.REGION) + vmx.VMXON,
        vmread(0x6C40), vmwrite(0x6C40, 1), vmwrite(vmx.REASON, 1), vmread(1 << 20), vmx.VMRESUME,
        rax(0) + pointer + vmx.INVEPT, rax(1) + pointer + vmx.INVEPT, b"\x8c\xd0\x8e\xd0" + vmx.VMLAUNCH,
    ):  # fmt: skip
        code += errored(body)
    code += tried(vmx.rdi(1 << 60) + vmx.VMPTRLD) + tried(vmx.rdi(1 << 40) + vmx.VMPTRST)
    code += tried(pointer + vmx.VMPTRST) + load(vmx.POINTER) + STORE
    code += vmwrite(0x2010, 0x1111222233334444) + vmwrite(0x2011, 0x55556666) + told(0x2010, 0x2011)
    code += vmwrite(0x2010, 0) + vmwrite(vmx.ES, 0x12345) + vmwrite(vmx.LIMIT, 0x123456789) + told(vmx.ES, vmx.LIMIT)
    # to memory, across a page's end, and from there
    across = vmx.rdi(vmx.GUEST_STACK - 4) + rdx(vmx.LIMIT)
    code += across + b"\x0f\x78\x17" + load(vmx.GUEST_STACK - 4) + STORE
    return code + store(vmx.GUEST_STACK - 4, 0x777) + across + b"\x0f\x79\x17" + told(vmx.LIMIT)


def _entries() -> bytes:
    verdict = load(vmx.FLAGS) + b"\x83\xe0\x41" + STORE + told(*VERDICT)
    code = make_block(PLAIN)
    for fields in (
        *({vmx.PIN: 0}, {vmx.PRIMARY: (1 << 32) - 1}, {vmx.EXIT: 0}, {vmx.ENTRY: 0}, {vmx.CR3_TARGETS: 5}),
        *({vmx.HOST_CR4: 0}, {vmx.HOST_CR0: 0}, {vmx.HOST_CS: 0}, {vmx.HOST_TR: 0}),
        *({vmx.EVENT: 1 << 31 | 7 << 8}, {vmx.RFLAGS: 0}, {vmx.CR0: 0}, {vmx.RIP: 1 << 60}),
    ):
        code += vmx.with_fields(fields, launch() + verdict)
    code += launch() + verdict + skip() + launch() + verdict + enter() + verdict + skip()
    ports = store(vmx.PORTS + 0x5000 // 8, 1 << 3, 1) + vmwrite(vmx.PRIMARY, vmx.PRIMARY_PLAIN | 1 << 25)
    code += ports + enter() + verdict + skip() + enter() + verdict + skip()
    code += vmwrite(vmx.EXCEPTIONS, 1 << 6) + enter() + verdict + told(vmx.INTERRUPTION)
    code += vmwrite(vmx.EVENT, 1 << 31 | 3 << 8 | 6) + vmwrite(vmx.EXCEPTIONS, 0) + enter() + STORE + verdict
    return code


def _paging() -> bytes:
    """As nested_vmx_cases.paging."""
    heard = told(vmx.REASON, vmx.QUALIFICATION, vmx.PHYSICAL, vmx.LINEAR, vmx.RIP, vmx.VECTORING)
    again = rax(2) + vmx.rdi(vmx.POINTER) + vmx.INVEPT + enter()
    code = ept_tables(0x200000 | 0xB7) + store(0x300000, 0xABCD)
    code += vmwrite(vmx.PRIMARY, SECONDARY_ON) + vmwrite(vmx.SECONDARY, 2)
    code += vmwrite(vmx.RIP, vmx.GUEST + len(GUEST)) + again + STORE + heard + skip() + again
    code += load(0x300008) + STORE + skip() + store(LEAF, 0x200000 | 0xB5) + again + heard
    for entry in (0, 0x200000 | 0xB2, 0x200000 | 0x97):
        code += store(LEAF, entry) + vmwrite(vmx.RIP, vmx.GUEST + len(GUEST)) + again + heard
    code += vmwrite(vmx.IDTR, 0x200000) + store(LEAF, 0) + vmwrite(vmx.EVENT, 1 << 31 | 3 << 8 | 6) + again + heard
    code += vmwrite(vmx.EPT_POINTER, vmx.EPT | 0x1C) + enter() + load(vmx.FLAGS) + b"\x83\xe0\x41" + STORE
    return code + told(vmx.ERROR)


def _elf(code: bytes) -> bytes:
    """An executable of one segment at CODE, which is its entry."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, CODE, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return ident + header + struct.pack("<IIQQQQQQ", 1, 7, 120, CODE, CODE, len(code), len(code), 1) + code


def same(designate: str) -> dict[str, object]:
    """The results, up to where level 2 ends its run."""
    code = BEGIN + _enable(bool(designate)) + _errors() + _entries() + _paging()
    code += b"\x4c\x89\xc0" + vmx.store_rax(vmx.SGDT) + done()  # mov %r8, %rax
    whole = _elf(image(with_handlers(code, FAULTS), GUEST + PAGED))
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as out:
        file.write(stack(MINIVISOR.read_bytes(), [Stacked(whole, "level=2")]))
        file.flush()
        guest = GuestSpec(Path(file.name), append="level=1", memory=MEMORY)
        designations = (designate,) if designate else ()
        spec = TowerSpec(guest, engine="vmx", timeout=60, designate=designations)
        with Tower(spec, stdout=out.fileno()) as tower:
            result = Runner(tower).run(stdout=out.fileno())
            end = int.from_bytes(tower.memory[1].read(OFFSET + vmx.SGDT, 8), "little")
            count = max(0, (end - RESULTS) // 8)
            kept = list(struct.unpack(f"<{count}Q", tower.memory[1].read(OFFSET + RESULTS, 8 * count)))
            served = list(tower.engine.nested.c.served)[:4]  # type: ignore[attr-defined]
    return {"status": result.status, "message": result.message, "kept": kept, "served": served}
