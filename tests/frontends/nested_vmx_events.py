"""Cases of events: injected, intercepted, from outside, and timed. See nested_vmx_cases.py."""

from __future__ import annotations

from pathlib import Path

import vmx_code as vmx
from guest_code import RESULTS, UD2, done, keep, load, out, rax, rdx, store, with_handlers
from nested_run import RINGING
from nested_vmx_run import SECONDARY_ON, ept_tables, run
from nmi_masks import masks_of_plain_guests, unmask_nmis
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
)

from nestvmm.hypervisors import HANDLED, Event, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec
from nestvmm.x86.exit_reason import ExitReason

HERE = f"{Path(__file__)}:"

# What an entry injects: kind, vector, error code; the guest's handler tells the vector.
EVENTS = [
    (0, 0x20),
    (0, 0xFF),
    (2, 2),
    (3, 0),
    (3, 1),
    (3, 6),
    (3, 8),
    (3, 13),
    (3, 14),
    (4, 0x80),
    (6, 3),
    (6, 4),
    (5, 1),
]
WITH_ERROR = {(3, 8), (3, 13), (3, 14)}


def events() -> dict[str, object]:
    code = enable() + make_block({vmx.EVENT_LENGTH: 5, vmx.RFLAGS: 0x202}) + launch()
    for number, (kind, vector) in enumerate(EVENTS):
        error = (kind, vector) in WITH_ERROR
        value = 1 << 31 | kind << 8 | vector | (1 << 11 if error else 0)
        code += vmwrite(vmx.RIP, vmx.GUEST) + vmwrite(vmx.RSP, vmx.GUEST_STACK) + vmwrite(vmx.RFLAGS, 0x202)
        code += vmwrite(vmx.BLOCKING, 0) + vmwrite(vmx.EVENT_ERROR, 0x5A8) + vmwrite(vmx.EVENT, value)
        # the guest's RAX at its exit is the vector
        code += (
            enter() + keep(4 * number + 1) + keep_field(4 * number, vmx.REASON) + keep_field(4 * number + 2, vmx.EVENT)
        )
        # what is on its stack: an error code, or RIP
        code += vmx.vmread(vmx.RSP) + b"\x48\x8b\x00" + keep(4 * number + 3)
    return run(image(code + done(), VMCALL), 4 * len(EVENTS))


def exceptions() -> dict[str, object]:
    """#UD, #PF and #GP exit; page faults by mask and match; then #UD does not, and the guest handles it."""
    told = (vmx.REASON, vmx.INTERRUPTION, vmx.INTERRUPTION_ERROR, vmx.QUALIFICATION, vmx.RIP)
    code = enable() + make_block({vmx.EXCEPTIONS: 1 << 6 | 1 << 14 | 1 << 13})
    fault = load(0x1_0000_0000_0)
    guest = UD2 + fault + rax(0x1234) + b"\x8e\xd8" + fault + fault + UD2
    move = b"\x48\x83\xc0"
    for number, length in enumerate((2, 3, 2)):
        code += (launch() if not number else enter()) + keep_fields(5 * number, *told)
        code += vmx.vmread(vmx.RIP) + move + bytes([length]) + vmwrite_rax(vmx.RIP)
    # only those that write exit: this one reads, and the guest takes it
    code += vmwrite(vmx.PF_MASK, 2) + vmwrite(vmx.PF_MATCH, 2) + enter() + keep(20) + keep_fields(15, vmx.REASON)
    # the match turned round
    code += vmwrite(vmx.RIP, vmx.GUEST + 2) + vmwrite(vmx.EXCEPTIONS, 0) + enter() + keep_fields(21, *told)
    code += vmwrite(vmx.RIP, vmx.GUEST) + vmwrite(vmx.PF_MASK, 0) + vmwrite(vmx.PF_MATCH, 0) + enter()
    code += keep(26) + keep_field(27, vmx.REASON) + done()
    return run(image(code, guest), 28)


class Timing(Hypervisor):
    """Level 1: OUT to port 0x5012 asks for its timer's event, which result 5 of level 2 then tells of."""

    def __init__(self, cycles: int) -> None:
        self._cycles = cycles
        self.seen: list[int] = []

    def claims(self) -> list[HandlerClaim]:
        return [
            (ExitReason.IO, 0x5012, 0x5012, None, self.ask),
            (ExitReason.PREEMPTION_TIMER, 0, (1 << 64) - 1, None, self.expired),
        ]

    def ask(self, event: Event) -> Result:
        self.guest.request_timer(self._cycles)
        return HANDLED

    def expired(self, event: Event) -> Result:
        self.seen.append(event.level)
        self.guest.write(RESULTS + 8 * 5, b"\1")
        return HANDLED


def two_timers(cycles: int, ticks: int) -> dict[str, object]:
    """Level 1 has asked for its timer, and level 2 has one: level 3 waits for level 1's; level 2's comes once."""
    controls = {
        vmx.PIN: vmx.PIN_PLAIN | 1 << 6,
        vmx.EXIT: vmx.EXIT_PLAIN | 1 << 22,
        vmx.TIMER: ticks,
        vmx.RFLAGS: 0x202,
    }
    code = enable() + make_block(controls) + launch() + keep_fields(0, vmx.REASON, vmx.TIMER) + load(RESULTS + 8 * 5)
    code += keep(2) + vmwrite(vmx.EXIT, vmx.EXIT_PLAIN) + vmwrite(vmx.PIN, vmx.PIN_PLAIN)
    code += enter() + keep_field(3, vmx.REASON) + done()
    # pause; cmpq $0, result 5; je: without a register, which would be level 2's after an entry
    wait = b"\xf3\x90\x48\x83\x3c\x25" + (RESULTS + 8 * 5).to_bytes(4, "little") + b"\0\x74\xf3"
    guest = out(0x5012, 0) + wait + VMCALL
    return run(image(code, guest + VMCALL), 4, [LevelSpec(HERE + "Timing", {"cycles": cycles})])


def outside_interrupts(port: int, pin: int, exit_controls: int) -> dict[str, object]:
    """A Python level below queues it while level 3 runs: level 2 exits, and takes what it did not acknowledge."""
    kept = rax(0x99) + keep(5) + b"\x48\xcf"
    code = enable() + make_block({vmx.PIN: vmx.PIN_PLAIN | pin, vmx.EXIT: vmx.EXIT_PLAIN | exit_controls})
    code += launch() + keep_fields(0, vmx.REASON, vmx.INTERRUPTION, vmx.RIP) + load(0x120028) + keep(3) + b"\xfb\x90"
    code += load(0x120028) + keep(4) + b"\xfa" + enter() + keep_field(6, vmx.REASON)
    whole = with_handlers(code + done(), {0x55: kept, 2: kept})
    return run(image(whole, rax(1) + rdx(port) + b"\xee" + b"\x90" * 4 + VMCALL), 7, [RINGING])


# mov %rsp, %rax; push $0x18; push %rax; pushf; push $0x10; lea 3(%rip), %rax; push %rax; iretq
IRET = b"\x48\x89\xe0\x6a\x18\x50\x9c\x6a\x10\x48\x8d\x05\x03\0\0\0\x50\x48\xcf"
IRET_AT = 0x20


def windows() -> dict[str, object]:
    """An interrupt window opens at once, or behind STI's shadow; an NMI window at once, or behind IRET, or not."""
    unmask_nmis()
    window = vmx.PRIMARY_PLAIN | 1 << 2
    code = enable() + make_block({vmx.PRIMARY: window, vmx.RFLAGS: 0x202}) + launch()
    code += keep_fields(0, vmx.REASON, vmx.RIP) + vmwrite(vmx.RFLAGS, 2) + enter() + keep_fields(2, vmx.REASON, vmx.RIP)
    code += vmwrite(vmx.PIN, vmx.PIN_PLAIN | 0x28) + vmwrite(vmx.PRIMARY, vmx.PRIMARY_PLAIN | 1 << 22)
    for number, (at, blocking) in enumerate(((0, 0), (IRET_AT, 8), (0, 0), (0, 8))):
        code += vmwrite(vmx.RIP, vmx.GUEST + at) + vmwrite(vmx.BLOCKING, blocking) + enter()
        code += keep_fields(4 + 3 * number, vmx.REASON, vmx.RIP, vmx.BLOCKING)
    guest = (b"\xfb\x90\x90" + VMCALL).ljust(IRET_AT, b"\x90") + IRET + b"\x90" + VMCALL
    return run(image(code + done(), guest), 16)


def timer() -> dict[str, object]:
    """The preemption timer: at once with 0, later with more, and what is left of it is saved.

    The one that spins does so with interrupts on, for Bochs: see `timer` of tests/engines/vmx_cases.py.
    """
    controls = {vmx.PIN: vmx.PIN_PLAIN | 1 << 6, vmx.EXIT: vmx.EXIT_PLAIN | 1 << 22, vmx.TIMER: 0}
    code = enable() + make_block(controls) + launch() + keep_fields(0, vmx.REASON, vmx.RIP)
    code += vmwrite(vmx.TIMER, 1 << 20) + enter() + keep_fields(2, vmx.REASON, vmx.TIMER) + skip()
    code += (
        vmwrite(vmx.TIMER, 1 << 12)
        + vmwrite(vmx.RFLAGS, 0x202)
        + enter()
        + keep_fields(4, vmx.REASON, vmx.TIMER)
        + done()
    )
    return run(image(code, VMCALL + b"\xf3\x90\xeb\xfc"), 6)


def clock() -> dict[str, object]:
    """The TSC offset; RDTSC exits when asked."""
    rdtsc = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0"
    code = enable() + make_block({vmx.PRIMARY: vmx.PRIMARY_PLAIN | 1 << 3, vmx.TSC_OFFSET: 1 << 50}) + rdtsc + keep(0)
    code += launch() + keep_field(2, vmx.REASON) + rdtsc + keep(3) + skip()
    code += vmwrite(vmx.PRIMARY, vmx.PRIMARY_PLAIN | 1 << 12) + enter() + keep_field(4, vmx.REASON) + done()
    return run(image(code, rdtsc + keep(1) + VMCALL + rdtsc), 5)


def vectoring() -> dict[str, object]:
    """An EPT violation in the delivery of an injected event: the exit tells which event it was."""
    told = (vmx.REASON, vmx.VECTORING, vmx.VECTORING_ERROR, vmx.LENGTH)
    code = enable() + ept_tables(0) + make_block({vmx.PRIMARY: SECONDARY_ON, vmx.SECONDARY: 2, vmx.IDTR: 0x200000})
    code += vmwrite(vmx.EVENT_LENGTH, 2) + vmwrite(vmx.EVENT_ERROR, 0x18) + vmwrite(vmx.RFLAGS, 0x202)
    # INT1's the lab's KVM does not tell; tests/native/vmx_steps.c has it
    for number, event in enumerate((0x20, 2 << 8 | 2, 3 << 8 | 6, 1 << 11 | 3 << 8 | 13, 4 << 8 | 0x80, 6 << 8 | 3)):
        code += vmwrite(vmx.BLOCKING, 0) + vmwrite(vmx.EVENT, 1 << 31 | event)
        code += (launch() if not number else enter()) + keep_fields(4 * number, *told)
    return run(image(code + done(), VMCALL), 24)


def faults_in_a_delivery() -> dict[str, object]:
    """The guest's IDT is in no page: #UD becomes #PF, which level 1 wants; it does not, but the #DF; neither.

    L0 stops the page faults in any case, for the mask asks for some.
    """
    told = (vmx.REASON, vmx.INTERRUPTION, vmx.INTERRUPTION_ERROR, vmx.VECTORING)
    code = enable() + make_block({vmx.IDTR: 1 << 40})
    for number, (exceptions, mask) in enumerate(((1 << 14, 0), (1 << 8, 0x10), (0, 0x10))):
        code += vmwrite(vmx.EXCEPTIONS, exceptions) + vmwrite(vmx.PF_MASK, mask) + vmwrite(vmx.RIP, vmx.GUEST)
        code += vmwrite(vmx.BLOCKING, 0) + (launch() if not number else enter()) + keep_fields(4 * number, *told)
    code += vmwrite(vmx.RIP, 1 << 47) + vmwrite(vmx.EXCEPTIONS, 1 << 13) + enter() + keep_fields(12, *told)
    return run(image(code + done(), UD2), 16)


TPR_SHADOW = vmx.PRIMARY_PLAIN | 1 << 21
# The virtual-APIC page not aligned, beyond all addresses, not memory; a reserved bit of the threshold.
TPR_RULES = [
    {vmx.VIRTUAL_APIC: vmx.APIC_PAGE + 8},
    {vmx.VIRTUAL_APIC: 1 << 50},
    {vmx.VIRTUAL_APIC: 0x3FFFF000},
    {vmx.TPR_THRESHOLD: 16},
]


def tpr_shadow() -> dict[str, object]:
    """Level 2's CR8 is in the virtual-APIC page; level 1 hears of what is below the threshold, and of moves."""
    get, put = b"\x44\x0f\x20\xc0", b"\x44\x0f\x22\xc0"  # mov %cr8, %rax; mov %rax, %cr8
    fields = {vmx.PRIMARY: TPR_SHADOW, vmx.VIRTUAL_APIC: vmx.APIC_PAGE, vmx.TPR_THRESHOLD: 3}
    code = enable() + store(vmx.APIC_PAGE + 0x80, 0x50, 1) + make_block(fields)
    for number, wrong in enumerate(TPR_RULES):
        code += vmx.with_fields(wrong, launch() + load(vmx.FLAGS) + b"\x83\xe0\x41" + keep(11 + number))
    code += launch() + keep_fields(1, vmx.REASON, vmx.RIP) + get + keep(3) + load(vmx.APIC_PAGE + 0x80, 1) + keep(4)
    code += enter() + load(vmx.FLAGS) + b"\x83\xe0\x41" + keep(5) + keep_field(6, vmx.ERROR)
    code += vmwrite(vmx.TPR_THRESHOLD, 2) + vmwrite(vmx.PRIMARY, TPR_SHADOW | 1 << 20)
    code += enter() + keep_fields(7, vmx.REASON, vmx.QUALIFICATION) + skip()
    code += vmwrite(vmx.PRIMARY, TPR_SHADOW) + enter() + keep_field(9, vmx.REASON) + get + keep(10) + done()
    guest = get + keep(0) + rax(7) + put + rax(2) + put
    below = len(guest)
    case = run(image(code, guest + get + rax(9) + put + VMCALL), 11 + len(TPR_RULES), machine="pc")
    return {**case, "below": vmx.GUEST + below}


EVENT_CASES = {
    "TPR shadow": tpr_shadow,
    "events": events,
    "vectoring": vectoring,
    "faults in a delivery": faults_in_a_delivery,
    "exceptions": exceptions,
    "windows": windows,
    "NMI masks": masks_of_plain_guests,
    "timer": timer,
    "two timers, its own first": lambda: two_timers(1 << 25, 1 << 18),
    "two timers, level 1's first": lambda: two_timers(1 << 16, 1 << 28),
    "clock": clock,
    "interrupt": lambda: outside_interrupts(0x5010, 1, 0),
    "acknowledged": lambda: outside_interrupts(0x5010, 1, 1 << 15),
    "nmi": lambda: outside_interrupts(0x5011, 8, 0),
}
