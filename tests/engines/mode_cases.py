"""Guests at CPL 3, in 32-bit protected mode and in real mode, both without paging: for every engine with a switcher.

What they keep: EAX and EBX behind the instruction, and the RIP that a handler found on its stack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from exception_cases import CODE_32, DATA_ABSENT, GDT, LGDT, LJMP, STACK, TABLES, user
from guest_code import IRETQ, RESULTS, UD2, done, keep, rax, rbx, with_handlers
from reason_cases import ANSWER, Watcher, keep_both, run, watch

from nestvmm.hypervisors import HANDLED, Event, Result
from nestvmm.nesting import LevelSpec
from nestvmm.x86.exit_reason import REASONS, ExitReason

HERE = f"{Path(__file__)}:"
LEAF = 0x40000123
CODE_16, DATA = 0x60, 0x18
LOW, LOW_HANDLER, IVT = 0x40000, 0x800, 0x41000
IDT_32, HANDLER_32 = 0x145000, 0x146000
VECTORS = (4, 6, 13, 0x55)
TASK, NEW_TASK, NEW_CODE = 0x68, 0x147000, 0x147800

# Instruction, its reason, and what it is called with in EAX.
INSTRUCTIONS: dict[str, tuple[str, bytes, int]] = {
    "cpuid": ("cpuid", b"\x0f\xa2", LEAF),
    "rdtsc": ("rdtsc", b"\x0f\x31", 0),
    "hlt": ("hlt", b"\xf4", 0),
    "cr0 read": ("cr-read", b"\x0f\x20\xc3", 0),
    "cr4 write": ("cr-write", b"\x0f\x22\xe0", 0x80),
    "int 0x55": ("software-interrupt", b"\xcd\x55", 0),
    "into": ("software-interrupt", b"\xce", 0x7FFFFFFF),
    "pushf": ("pushf", b"\x9c\x58", 0),  # and POP to EAX
    "ud": ("exception", UD2, 0),
}
QUALIFIERS = {"cr4 write": 4, "ud": 6}
SET_OVERFLOW = b"\x83\xc0\x01"  # add $1, %eax

# From compatibility mode: paging off, EFER.LME off, flat segments of 32 bits.
LEAVE_PAGING = b"\x0f\x20\xc0\x25\xff\xff\xff\x7f\x0f\x22\xc0"
LEAVE_LONG = b"\xb9\x80\0\0\xc0\x0f\x32\x25\xff\xfe\xff\xff\x0f\x30"
FLAT = b"\xb8" + struct.pack("<I", DATA) + b"\x8e\xd0\x8e\xd8\x8e\xc0" + b"\xbc" + struct.pack("<I", STACK)
LIDT_32 = b"\x0f\x01\x1d" + struct.pack("<I", GDT + 0x110)
PROTECTED = LEAVE_PAGING + LEAVE_LONG + FLAT + LIDT_32
KEEP_32 = b"\xa3" + struct.pack("<I", RESULTS) + b"\x89\x1d" + struct.pack("<I", RESULTS + 8)
EXIT = b"\xb0\x00\xe6\xf4"  # mov $0, %al; out %al, $0xf4
KEEP_RIP_32 = b"\x8b\x04\x24\xa3" + struct.pack("<I", RESULTS + 16)

# From 16-bit protected mode at LOW; DS stays flat. Then stores with operands and addresses of 32 bits.
LIDT_16 = b"\x66\x67\x0f\x01\x1d" + struct.pack("<I", GDT + 0x118)
LEAVE_PROTECTION = LIDT_16 + b"\x0f\x20\xc0\x24\xfe\x0f\x22\xc0"
REAL_STACK = b"\xb8\x00\x30\x8e\xd0\x66\xbc\xf0\xff\0\0"
KEEP_16 = b"\x66\x67\xa3" + struct.pack("<I", RESULTS) + b"\x66\x67\x89\x1d" + struct.pack("<I", RESULTS + 8)
KEEP_IP = b"\x66\x31\xc0\x58\x50\x66\x67\xa3" + struct.pack("<I", RESULTS + 16)

TASK_GATE = struct.pack("<HHHH", 0, TASK, 0x8500, 0)
GATE_32 = struct.pack("<HHHH", HANDLER_32 & 0xFFFF, CODE_32, 0x8E00, HANDLER_32 >> 16)
MEMORY = {
    **TABLES,
    GDT + 0x110: struct.pack("<HI", 0x7FF, IDT_32),
    GDT + 0x118: struct.pack("<HI", 0x3FF, IVT),
    **{IDT_32 + 8 * vector: GATE_32 for vector in VECTORS},
    **{IVT + 4 * vector: struct.pack("<HH", LOW_HANDLER, LOW >> 4) for vector in VECTORS},
}


def move_32(register: bytes, value: int) -> bytes:
    return register + struct.pack("<I", value)


def body(name: str) -> tuple[bytes, bytes]:
    """What stands before the instruction, in code of 32 bits, and the instruction."""
    _, code, eax = INSTRUCTIONS[name]
    return move_32(b"\xbb", 0) + move_32(b"\xb8", eax) + (SET_OVERFLOW if name == "into" else b""), code


def enter_protected() -> bytes:
    """32-bit protected mode without paging."""
    far = LGDT + rax(CODE_32) + b"\x50\x48\x8d\x05\x03\0\0\0\x50\x48\xcb"  # lea 3(%rip), %rax; push; lretq
    return far + PROTECTED


def protected(name: str) -> tuple[bytes, bytes]:
    """The guest's image, and what stands before its instruction."""
    setup, code = body(name)
    before = enter_protected() + setup
    return before + code + KEEP_32 + EXIT, before


def real(name: str) -> tuple[bytes, bytes]:
    """What lies at LOW, and what stands there before the instruction."""
    setup, code = body(name)
    setup = b"".join(b"\x66" + part for part in (setup[:5], setup[5:10])) + (b"\x66" + setup[10:]) * (name == "into")
    far = LEAVE_PROTECTION + b"\xea" + struct.pack("<HH", len(LEAVE_PROTECTION) + 5, LOW >> 4)
    before = far + REAL_STACK + setup
    return before + code + KEEP_16 + EXIT, before


def levels(name: str, does: str) -> list[object]:
    """Level 1 watches, under a level that does not care."""
    options = {"first": QUALIFIERS[name], "last": QUALIFIERS[name]} if name in QUALIFIERS else {}
    return [watch(INSTRUCTIONS[name][0], does, **options), "logger"]


def in_protected(engine: str, name: str, does: str) -> dict[str, object]:
    memory = {**MEMORY, HANDLER_32: handler_of(name, KEEP_RIP_32 + EXIT, KEEP_RIP_32 + b"\xcf")}
    return run(engine, protected(name)[0], levels(name, does), 3, memory)  # type: ignore[arg-type]


def in_real(engine: str, name: str, does: str) -> dict[str, object]:
    handler = handler_of(name, KEEP_IP + EXIT, KEEP_IP + b"\xcf")
    memory = {**MEMORY, LOW: real(name)[0], LOW + LOW_HANDLER: handler}
    enter = enter_protected() + LJMP + struct.pack("<IH", 0, CODE_16)
    return run(engine, enter, levels(name, does), 3, memory)  # type: ignore[arg-type]


def handler_of(name: str, fault: bytes, trap: bytes) -> bytes:
    """A fault's handler does not return."""
    return trap if name in ("int 0x55", "into") else fault


def user_code(name: str) -> bytes:
    """Before the instruction, at CPL 3."""
    gate = b"\xc6\x04\x25" + struct.pack("<IB", 0x110000 + 16 * 0x55 + 5, 0xEE)  # its DPL becomes 3
    return gate + user(rbx(0) + rax(INSTRUCTIONS[name][2]))


def in_user(engine: str, name: str, does: str) -> dict[str, object]:
    trap = b"\x48\x8b\x04\x24" + keep(2) + IRETQ
    code = user_code(name) + INSTRUCTIONS[name][1] + keep_both() + done()
    return run(engine, with_handlers(code, {0x55: trap}), levels(name, does), 3, TABLES)  # type: ignore[arg-type]


def faults_in_real(engine: str) -> dict[str, object]:
    """#GP at CPUID; in real mode without an error code, so that its handler finds IP on top."""
    memory = {**MEMORY, LOW: real("cpuid")[0], LOW + LOW_HANDLER: KEEP_IP + EXIT}
    enter = enter_protected() + LJMP + struct.pack("<IH", 0, CODE_16)
    return run(engine, enter, [watch("cpuid", "fault")], 3, memory)


class Switching(Watcher):
    """Does what is left of the task switches that it sees: EIP, EBX and ESP of the new TSS; TR stays."""

    def answer(self, event: Event) -> Result:
        words = struct.unpack("<26I", self.guest.read(NEW_TASK, 4 * 26))
        regs = self.guest.regs
        regs.rip, regs.rbx, regs.rsp = words[8], words[13], words[14]
        regs.rax = ANSWER
        self.guest.set_regs(regs)
        return HANDLED


LTR_32 = b"\xb8\x30\0\0\0\x0f\x00\xd8"
STR = b"\x0f\x00\xc8"
JUMP, CALL = (opcode + struct.pack("<IH", 0, TASK) for opcode in (LJMP, b"\x9a"))


def tss(cr3: int = 0) -> bytes:
    """Of the new task: NEW_CODE, with 0x1234 in EBX."""
    words = [0] * 26
    words[7], words[8], words[9], words[13], words[14] = cr3, NEW_CODE, 2, 0x1234, STACK  # EIP, EFLAGS, EBX, ESP
    words[18:24] = [DATA, CODE_32, DATA, DATA, 0, 0]
    return struct.pack("<26I", *words)


def switch(
    engine: str, old: bytes, new: bytes, memory: dict[int, bytes] | None = None, does: str = "decline"
) -> dict[str, object]:
    """The old task runs `old`, the new one what stands at NEW_CODE."""
    image = enter_protected() + LTR_32 + old + EXIT
    switching = LevelSpec(HERE + "Switching", {"reason": "task-switch", "does": does})
    return run(engine, image, [switching], 3, {**MEMORY, NEW_TASK: tss(), NEW_CODE: new, **(memory or {})})


def task_switch(engine: str, does: str) -> dict[str, object]:
    """A far JMP to a TSS; the new task keeps EBX, as the TSS has it, and TR."""
    # str %eax, unless a level has done the switch
    new = b"\x3d" + struct.pack("<I", ANSWER) + b"\x74\x03" + STR + KEEP_32 + EXIT
    return switch(engine, JUMP, new, does=does)


def call_and_return(engine: str) -> dict[str, object]:
    """The new task keeps TR and EBX and returns by IRET; the old one keeps its own EBX, with NT in bit 0."""
    old = move_32(b"\xbb", 0x5670) + CALL + b"\x9c\x58\xc1\xe8\x0e\x83\xe0\x01\x09\xc3"  # pushf; pop; shift NT down; or
    new = STR + KEEP_32 + b"\xcf"
    return switch(engine, old + b"\x89\x1d" + struct.pack("<I", RESULTS + 16), new)


def gate(engine: str) -> dict[str, object]:
    """#GP comes through a task gate; its task keeps the error code, and the link to the old task."""
    new = b"\x58\x0f\xb7\x1d" + struct.pack("<I", NEW_TASK) + KEEP_32 + EXIT  # pop %eax; movzwl
    return switch(engine, move_32(b"\xb8", 0xF0) + b"\x8e\xd8", new, {IDT_32 + 8 * 13: TASK_GATE})


def interrupt_gate(engine: str) -> dict[str, object]:
    """INT comes through a task gate and goes on behind the instruction."""
    old = move_32(b"\xbb", 0x5670) + b"\xcd\x55\x89\x1d" + struct.pack("<I", RESULTS + 16)
    return switch(engine, old, STR + KEEP_32 + b"\xcf", {IDT_32 + 8 * 0x55: TASK_GATE})


# What switches tasks and comes back. INTO follows what sets OF.
SOURCES = {
    "int": b"\xcd\x55",
    "int with a prefix": b"\x66\xcd\x55",
    "int3": b"\xcc",
    "int of 3": b"\xcd\x03",
    "into": move_32(b"\xb8", 0x7FFFFFFF) + SET_OVERFLOW + b"\xce",
    "int1": b"\xf1",
    "call": CALL,
    "call of a gate": b"\x9a" + struct.pack("<IH", 0, DATA_ABSENT),
    "call by memory": b"\xff\x1d" + struct.pack("<I", NEW_CODE + 0x100),
}


def task_sources(engine: str) -> dict[str, object]:
    """Each way to a task, which returns by IRET and waits for the next; the old one counts them.

    In QEMU an INT1 through a task gate comes back to itself.
    """
    sources = {name: code for name, code in SOURCES.items() if (engine, name) != ("svm", "int1")}
    count = b"\xff\x05" + struct.pack("<I", RESULTS)  # incl
    gates = {IDT_32 + 8 * vector: TASK_GATE for vector in (1, 3, 4, 0x55)}
    new = (b"\xcf\xeb\xfd").ljust(0x100, b"\x90") + struct.pack("<IH", 0, TASK)
    old = b"".join(code + count for code in sources.values())
    return {**switch(engine, old, new, {**gates, GDT + DATA_ABSENT: TASK_GATE}), "names": list(sources)}


def narrow_task(engine: str) -> dict[str, object]:
    """A TSS of 16 bits, with its code in a segment of 16 bits."""
    words = [0] * 22
    words[7], words[8], words[12], words[13] = LOW_HANDLER, 2, 0x1234, 0xFFF0  # IP, FLAGS, BX, SP
    words[17:21] = [DATA, CODE_16, DATA, DATA]
    descriptor = 0x811400000000 | NEW_TASK % 0x10000 << 16 | 0x2B
    memory = {GDT + TASK: struct.pack("<Q", descriptor), NEW_TASK: struct.pack("<22H", *words)}
    code = b"\x66\x31\xc0" + STR + KEEP_16 + EXIT
    return switch(engine, JUMP, b"", {**memory, LOW + LOW_HANDLER: code})


def paged(engine: str) -> dict[str, object]:
    """Both tasks run with PAE paging; only the new one's tables have the first 2 MiB a second time, at 4 MiB."""
    tables, others = 0x148000, 0x14A000
    directories = {at: struct.pack("<Q", at + 0x1001) for at in (tables, others)}
    memory = {tables + 0x1000: struct.pack("<Q", 0x83), others + 0x1000: struct.pack("<QQQ", 0x83, 0, 0x83)}
    enter = move_32(b"\xb8", tables) + b"\x0f\x22\xd8\x0f\x20\xc0\x0d\0\0\0\x80\x0f\x22\xc0"
    new = STR + b"\xa3" + struct.pack("<I", 0x400000 + RESULTS) + EXIT
    return switch(engine, enter + JUMP, new, {**directories, **memory, NEW_TASK: tss(others)})


def absent_stack(engine: str) -> dict[str, object]:
    """The new task's SS is not present: #SS is its own, and has no stack to be delivered on."""
    stack = bytearray(tss())
    stack[80:84] = struct.pack("<I", DATA_ABSENT)
    return switch(engine, JUMP, EXIT, {NEW_TASK: bytes(stack), IDT_32 + 8 * 12: GATE_32, HANDLER_32: EXIT})


# What each mode runs, and how level 1 answers.
MODES = {
    "protected": (in_protected, ("cpuid", "hlt", "cr0 read", "cr4 write", "int 0x55", "into", "pushf", "ud")),
    "real": (in_real, ("cpuid", "hlt", "int 0x55", "into", "pushf", "ud")),
    "user": (in_user, ("cpuid", "rdtsc", "int 0x55")),
}
ANSWERS = {"ud": ("skip", "decline"), "hlt": ("answer",), "pushf": ("decline",)}

CASES = {
    **{
        f"{mode} {name} {does}": (lambda engine, enter=enter, name=name, does=does: enter(engine, name, does))
        for mode, (enter, names) in MODES.items()
        for name in names
        for does in ANSWERS.get(name, ("answer", "decline"))
    },
    "real fault": faults_in_real,
    "task switch": lambda engine: task_switch(engine, "answer"),
    "task switch declined": lambda engine: task_switch(engine, "decline"),
    "task call": call_and_return,
    "task gate": gate,
    "task interrupt": interrupt_gate,
    "task sources": task_sources,
    "task narrow": narrow_task,
    "task paged": paged,
    "task absent stack": absent_stack,
}


def possible(engine: str) -> dict[str, Callable[[str], dict[str, object]]]:
    """The cases whose reason this engine has."""

    def has(name: str) -> bool:
        instruction = name.partition(" ")[2].rpartition(" ")[0]
        reason = INSTRUCTIONS[instruction][0] if instruction in INSTRUCTIONS else "cpuid"
        return engine in REASONS[ExitReason.from_label(reason)].engines

    return {name: case for name, case in CASES.items() if has(name)}
