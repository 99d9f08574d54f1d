"""The svm and vmx engines: exceptions, traps, interrupts, NMIs, windows and port intercepts, with exact exits.

VMX has no exits for INTn, IRET, POPF and PUSHF (Intel SDM vol. 3, 26.1).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from lab_cases import run_cases
from vendors import svm_alone

from nestvmm.lab import Lab
from nestvmm.x86.exit_reason import ExitReason

CODE = 0x100000
ANSWER = 0x7777
READ, WRITE, EXECUTE = 0, 1, 2
FAR = 0x8000000000
DR6_STEP = 0xFFFF4FF0
RFLAGS_IF = 0x200

# Exit codes, and basic exit reasons.
RAW = {
    "svm": {"interrupt": 0x60, "nmi": 0x61, "smi": 0x62, "init": 0x63, "interrupt window": 0x64, "nmi window": 0x74}
    | {"hlt": 0x78, "port": 0x7B, "shutdown": 0x7F, "table": 0x6B, "step": 0x41, "breakpoint": 0x75},
    "vmx": {"interrupt": 1, "nmi": 0, "init": 3, "interrupt window": 7, "nmi window": 8}
    | {"hlt": 12, "port": 30, "shutdown": 2, "table": 46, "step": 0, "breakpoint": 0},
}
# An error code that names a gate: 8 times the vector, in QEMU's 64-bit mode 16 times (do_interrupt64); the bit for the
# IDT; and on Intel's processors whether the event came from outside.
GATE = {"svm": 16, "vmx": 8}
IDT, EXTERNAL = 2, {"svm": 0, "vmx": 1}

# Vector, error code, linear address, and where the instruction is.
EXCEPTIONS = {
    "de": (0, 0, 0, 0xC),
    "bp": (3, 0, 0, 0xA),
    "of": (4, 0, 0, 0x2F),
    "br": (5, 0, 0, 0x31),
    "ud": (6, 0, 0, 0xA),
    "nm": (7, 0, 0, 0x14),
    "df": (8, 0, 0, 0x14),
    "ts": (10, 0x48, 0, 0x21),  # the TSS's selector
    "np": (11, 0x40, 0, 0x1C),
    "ss": (12, 0x40, 0, 0x1C),
    "gp": (13, 0xFFF8, 0, 0x14),
    "pf": (14, 2, FAR, 0x14),
    "mf": (16, 0, 0, 0x1A),
    "ac": (17, 0, 0, 0x85),
    "xm": (19, 0, 0, 0x2A),
    "pf user": (14, 4, FAR, 0x71),
    "ud user": (6, 0, 0, 0x67),
}
# What the labs' processors do instead (QEMU, target/i386/tcg; Bochs); the status that the guest ends with.
NOT_TRAPPED = {
    "svm": {
        "bp": (3, "INT3 is looked at as INTn: see test_a_declined_software_interrupt_or_iret"),
        "of": (4, "so is INTO: see test_modes"),
        "df": (8, "the intercept of #DF's causes is looked at, not that of what they become: raise_interrupt2"),
        "ac": (0x55, "alignment is never checked"),
        "xm": (0x55, "SSE's exceptions only set MXCSR's bits: update_mxcsr_from_sse_status"),
    },
    "vmx": {},
}
# Traps lead behind themselves.
TRAPS = ("bp", "of")
# The RDMSR that #DF comes of is an exit of its own under vmx, which L0 answers by #GP.
MORE_EXITS = {"df": 1}


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(vendor_lab, f"engines/{vendor}_cases.py", "events")


def brief(events: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    """Some fields of each event."""
    return [[event[name] for name in names] for event in events]


@pytest.mark.parametrize("does", ["decline", "skip"])
@pytest.mark.parametrize("name", EXCEPTIONS)
def test_a_level_sees_an_exception_with_its_error_code(
    name: str, does: str, vendor: str, found: dict[str, Any]
) -> None:
    """Where the lab's processor does not trap it: fails once it does."""
    case = found[f"exception {name} {does}"]
    if name in NOT_TRAPPED[vendor]:
        assert (case["status"], case["seen"][0]) == (NOT_TRAPPED[vendor][name][0], [])
        return
    vector, error, address, rip = EXCEPTIONS[name]
    (event,) = case["seen"][0]
    event = {key: value for key, value in event.items() if key != "instruction"}
    raw = 0x40 + vector if vendor == "svm" else 0
    expected = {"raw": raw, "qualifier": vector, "info": error, "value": address, "rip": rip}
    assert event == {**expected, "direction": EXECUTE, "size": 0, "length": 0}
    if does == "skip":
        exits = 2 + (MORE_EXITS.get(name, 0) if vendor == "vmx" else 0)
        assert (case["status"], case["kept"][:3], case["exits"]) == (0x55, [0, 0, 0], exits)
    else:
        assert (case["status"], case["message"]) == (vector, "")
        assert case["kept"][:3] == [error, CODE + rip + (name in TRAPS), address]


@pytest.mark.parametrize(("name", "exits"), [("stepped", 1), ("stepped, declined", 2), ("stepped, answered", 2)])
def test_a_guest_that_steps_itself_sees_a_trap_behind_each_instruction(
    name: str, exits: int, found: dict[str, Any]
) -> None:
    """Also behind one that a level did, and behind one that L0 stepped over itself."""
    assert (found[name]["status"], found[name]["kept"][0], found[name]["exits"]) == (0, 6, exits)


def test_a_level_sees_the_guests_traps(vendor: str, found: dict[str, Any]) -> None:
    """With DR6, or what is to be set in it."""
    raw, value = {"svm": (0x41, DR6_STEP), "vmx": (0, DR6_STEP & 0x4000)}[vendor]
    for does, kept in (("handled", [0, 0]), ("declined", [4, DR6_STEP])):
        case = found[f"traps {does}"]
        assert (case["status"], case["kept"]) == (0, kept)
        assert brief(case["seen"][0], "raw", "qualifier", "value", "rip") == [
            [raw, 1, value, rip] for rip in (0x12, 0x13, 0x1A, 0x1B)
        ]


def test_popf_that_sets_the_trap_flag(found: dict[str, Any]) -> None:
    assert (found["popf"]["status"], found["popf"]["kept"]) == (0, [1, CODE + 0xF])


@svm_alone
def test_declined_popf_that_sets_the_trap_flag(found: dict[str, Any]) -> None:
    assert (found["popf declined"]["status"], found["popf declined"]["kept"]) == (0, [1, CODE + 0xF])


@svm_alone
@pytest.mark.parametrize(
    ("name", "event", "back"),
    [
        ("int3 declined", [0x75, 3, 1, 8], CODE + 9),
        ("int declined", [0x75, 0x55, 2, 8], CODE + 10),
        ("iret declined", [0x74, 0, 2, None], CODE + 10),
    ],
)
def test_a_declined_software_interrupt_or_iret(
    name: str, event: list[int | None], back: int, found: dict[str, Any]
) -> None:
    case = found[name]
    (seen,) = brief(case["seen"][0], "raw", "qualifier", "length", "rip")
    assert [one for one, wanted in zip(seen, event, strict=True) if wanted is not None] == [
        wanted for wanted in event if wanted is not None
    ]
    assert (case["status"], case["kept"]) == (0, [1, back])


@svm_alone
def test_a_declined_int_that_its_gate_refuses_faults_at_the_instruction(found: dict[str, Any]) -> None:
    case = found["int user"]
    assert brief(case["seen"][0], "raw", "qualifier", "rip") == [[0x75, 0x55, 0x65]]
    assert (case["status"], case["kept"]) == (13, [8 * 0x55 + IDT, CODE + 0x65])


def test_a_step_that_faults_leaves_nothing_behind(vendor: str, found: dict[str, Any]) -> None:
    case = found["step faults"]
    assert (case["status"], case["kept"][0]) == (13, 2)
    raw = RAW[vendor]["table"]
    assert brief(case["seen"][0], "raw", "rip", "length") == [[raw, 0x12, 3], [raw, 0x12013, 8]]


@svm_alone
def test_pushf_does_not_store_the_trap_flag_of_l0(found: dict[str, Any]) -> None:
    case = found["pushed"]
    assert (case["status"], case["kept"], brief(case["seen"][0], "raw")) == (0, [0x46], [[0x70]])


def test_exceptions_on_top_of_each_other(vendor: str, found: dict[str, Any]) -> None:
    """AMD APM vol. 2, table 8-8; Intel SDM vol. 3, table 6-5. The error code is the missing gate's."""

    def seen(case: dict[str, Any]) -> list[list[Any]]:
        return brief(case["seen"][0], "qualifier", "info", "rip")

    def at_gate(vector: int) -> list[int]:
        return [13, vector * GATE[vendor] + IDT + EXTERNAL[vendor], 0x1A]

    case = found["benign first"]
    assert (case["status"], case["kept"]) == (13, [6 * GATE[vendor] + IDT + EXTERNAL[vendor]])
    case = found["double fault"]
    assert (case["status"], case["kept"]) == (8, [0])
    assert seen(case) == [at_gate(11)]
    case = found["triple fault"]
    assert (case["status"], case["message"]) == (255, "guest at L2 died: triple fault")
    assert seen(case) == [at_gate(11), at_gate(8)]


def test_an_injected_exception_comes_behind_the_exit(found: dict[str, Any]) -> None:
    assert (found["inject"]["status"], found["inject"]["kept"]) == (0, [0x5A8, CODE + 0x1D])


@pytest.mark.parametrize(
    ("name", "kept", "exits"),
    [
        ("interrupt", [1, 0], 2),
        ("interrupt waits", [1, 1], 2),
        ("two interrupts", [1, 1], 2),  # the higher vector first
        ("nmi", [1, 1], 2),
        ("nmi in nmi", [2, 1], 3),  # the second comes behind the first one's IRET
    ],
)
def test_injected_interrupts_and_nmis(name: str, kept: list[int], exits: int, found: dict[str, Any]) -> None:
    assert (found[name]["status"], found[name]["kept"], found[name]["exits"]) == (0, kept, exits)


@pytest.mark.parametrize("name", ["interrupt wakes", "interrupt wakes, hlt declined"])
def test_an_injected_interrupt_ends_hlt(name: str, vendor: str, found: dict[str, Any]) -> None:
    case = found[name]
    came, _, before = case["kept"]
    assert (case["status"], came, case["exits"]) == (0, 1, 3 + before)
    assert not before or vendor == "svm", "QEMU's processor alone forgets the interrupt shadow"


def test_windows(vendor: str, found: dict[str, Any]) -> None:
    """The interrupt window is behind the instruction after STI; NMIs can come at once."""
    for name, reason, rip, flag in (
        ("interrupt window", ExitReason.INTERRUPT_WINDOW, 34, RFLAGS_IF),
        ("nmi window", ExitReason.NMI_WINDOW, 29, 0),
    ):
        case = found[name]
        assert (case["status"], case["seen"][0]) == (0, [[reason, RAW[vendor][name], rip, flag]])


def test_external_interrupts(vendor: str, found: dict[str, Any]) -> None:
    """Acknowledged when the guest takes interrupts: the exit is behind STI, the handler's turn an instruction later."""
    assert (found["tick"]["status"], found["tick"]["kept"][0], found["tick"]["exits"]) == (0, 1, 1)
    for does, kept in (("declined", 1), ("handled", 0)):
        case = found[f"tick {does}"]
        assert brief(case["seen"][0], "raw", "qualifier", "length") == [[RAW[vendor]["interrupt"], 0x20, 0]]
        assert (case["status"], case["kept"][0], case["exits"]) == (0, kept, 2)


def test_an_interrupt_wakes_from_a_declined_hlt(vendor: str, found: dict[str, Any]) -> None:
    raw = RAW[vendor]
    case = found["tick wakes"]
    assert (case["status"], case["kept"][:2], brief(case["seen"][0], "raw")) == (0, [1, 1], [[raw["hlt"]]])
    assert not case["kept"][2] or vendor == "svm", "QEMU's processor alone forgets the interrupt shadow"
    case = found["tick wakes, declined"]
    ((hlt, at),) = brief(case["seen"][0], "raw", "rip")
    *before, (interrupt, behind) = brief(case["seen"][1], "raw", "rip")
    assert (hlt, interrupt, behind - at) == (raw["hlt"], raw["interrupt"], 1)
    assert (case["status"], case["kept"]) == (0, [1, 1, len(before)])
    assert not before or vendor == "svm"


@pytest.mark.parametrize(("name", "taken"), [("nmi", 1), ("smi", 0), ("init", 0)])
def test_what_the_apic_delivers(name: str, taken: int, vendor: str, found: dict[str, Any]) -> None:
    """VMX has no exit for an SMI here (Intel SDM vol. 3, 32.14): KVM enters SMM, where nothing is."""
    if (vendor, name) == ("vmx", "smi"):
        case = found["smi unclaimed"]
        assert case["status"] == 255
        assert case["message"].startswith("guest at L1 died: KVM could not fetch its next instruction")
        return
    for does, kept in (("handled", 0), ("decline", taken)):
        case = found[f"{name} {does}"]
        assert brief(case["seen"][0], "raw", "qualifier", "rip") == [[RAW[vendor][name], 0, 0x4A]]
        if (name, does) != ("init", "decline"):
            assert (case["status"], case["kept"]) == (0, [kept, 1])
    if name == "init":
        for does, level in (("decline", 2), ("unclaimed", 1)):
            case = found[f"init {does}"]
            assert case["status"] == 255
            assert case["message"] == f"guest at L{level} died: an INIT reset its only processor"
    else:
        assert found[f"{name} unclaimed"]["kept"] == [taken, 1]


def test_a_level_repairs_a_shutdown(vendor: str, found: dict[str, Any]) -> None:
    case = found["shutdown"]
    assert (case["status"], case["kept"][0]) == (0, 1)
    assert brief(case["seen"][0], "raw", "rip") == [[RAW[vendor]["shutdown"], 0]]


# Qualifier, direction, size, value; EXITINFO1 (AMD APM vol. 2, 15.10.2) and exit qualification (Intel SDM vol. 3, table
# 28-5); length, where the instruction is.
PORTS = {
    "port out": [(0x5000, WRITE, 2, 0x1234, (0x50000020, 0x50000001), 2, 0x14)],
    "port in": [(0x5001, READ, 4, 0, (0x50010041, 0x5001000B), 1, 0x1E)],
    "port outs": [(0x5000, WRITE, 2, 0, (0x5000002C, 0x50000031), 3, 0x1E)] * 3,
    "port ins": [(0x5000, READ, 2, 0, (0x5000002D, 0x50000039), 3, 0x1E)],
    "port fault": [(0x5000, READ, 1, 0, (0x50000011, 0x50000008), 1, 0x1C)],
    "port declined": [(0x5000, READ, 1, 0, (0x50000011, 0x50000008), 1, 0x14)],
    "port user": [(0x5000, READ, 2, 0, (0x50000021, 0x50000009), 2, 0x7B)],
    "port stepped": [(0x70, READ, 1, 0, (0x700011, 0x700048), 2, 0x11)],
    "port unclaimed": [],
}


@pytest.mark.parametrize("name", PORTS)
def test_ports_by_bitmap(name: str, vendor: str, found: dict[str, Any]) -> None:
    case = found[name]
    fields = ("qualifier", "direction", "size", "value", "info", "length", "rip")
    expected = [[*one[:4], one[4][vendor == "vmx"], *one[5:]] for one in PORTS[name]]
    assert (case["status"], brief(case["seen"][0], *fields)) == (0, expected)
    assert {event["raw"] for event in case["seen"][0]} <= {RAW[vendor]["port"]}
    assert case["exits"] == 1 + max(1, len(PORTS[name]))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("port in", [ANSWER, ANSWER]),  # the answer, and RBX as the handler set it
        ("port ins", [ANSWER << 32 | ANSWER << 16 | ANSWER, 0]),
        ("port fault", [0x5A8, CODE + 0x1C]),
        ("port declined", [0xFF, 2]),  # RFLAGS without the trap flag
        ("port user", [ANSWER, 0]),
        ("port stepped", [5, 0]),
        ("port unclaimed", [0xFF, 0]),
    ],
)
def test_the_guest_takes_the_answer_of_an_intercepted_port(name: str, kept: list[int], found: dict[str, Any]) -> None:
    assert found[name]["kept"] == kept


# What the guest keeps: its flags show no trap flag, its traps and interrupts are counted.
STEPPED = {
    "steps": [2, 0],
    "steps into INTn": [2, 0],
    "steps into a fault": [2, 0],
    "steps over a shadow": [2, 0],
    "steps with traps": [4, DR6_STEP],
    "steps with traps, CPUID": [4, 0],
    "steps over exits": [ANSWER, ANSWER & 0xFF],
    "steps over accesses": [0, 0],
    "steps over strings of ports": [0, 0],
    "steps over SYSCALL": [0x3002, 0x300],  # R11, SFMASK
    "steps and an interrupt": [1, 0],
    "steps and windows": [0x5A8, 0],
    "steps over HLT": [1, 0],
    "steps into a HLT that faults": [0, 1],
}
# KVM's emulator does several elements at once, or raises a trap behind each of them.
STRINGS = ("steps over accesses", "steps over strings of ports")


@pytest.mark.parametrize("name", STEPPED)
def test_a_level_steps_through_its_guest(name: str, vendor: str, found: dict[str, Any]) -> None:
    """It sees where the guest stands behind each instruction, by what the direct engine's events have."""
    case = found[name]
    assert (case["status"], case["message"]) == (0, "")
    at = [event[0] for event in case["seen"][0]]
    assert ([one for one, _ in groupby(at)] if name in STRINGS else at) == case["expected"]
    assert {tuple(event[1:8]) for event in case["seen"][0]} == {(1, RAW[vendor]["step"], DR6_STEP, 0, 0, READ, 0)}
    assert case["kept"][:2] == STEPPED[name]


def test_other_levels_have_their_events_in_stepped_code(vendor: str, found: dict[str, Any]) -> None:
    raw = RAW[vendor]
    cpuid, port = (found["steps over exits"]["seen"][at] for at in (1, 2))
    assert brief(cpuid, "qualifier", "rip", "length") == [[0x40000123, 0x27, 2]]
    assert brief(port, "raw", "qualifier", "rip", "length") == [[raw["port"], 0x5000, 0x63, 1]]
    assert found["steps over accesses"]["seen"][1] == [
        [0, READ, 4, 0],
        *([at, WRITE, 4, 0x5A5A5A5A] for at in (8, 0, 4)),
    ]
    assert brief(found["steps over strings of ports"]["seen"][1], "qualifier", "direction") == [[0x5000, WRITE]] * 3
    assert found["steps and windows"]["seen"][1] == [
        [ExitReason.INTERRUPT_WINDOW, raw["interrupt window"], 0x36, RFLAGS_IF],
        [ExitReason.NMI_WINDOW, raw["nmi window"], 0x4C, RFLAGS_IF],
    ]


def test_a_guest_that_steps_itself_shows_its_own_flag_only(found: dict[str, Any]) -> None:
    """From behind the POPF that sets it to the one that clears it; not in the handlers."""
    flags = {event[0]: event[8] for event in found["steps with traps"]["seen"][0]}
    assert {at for at, flag in flags.items() if flag} == {0x26, 0x27, 0x28, 0x2F}


@pytest.mark.parametrize(
    ("does", "status", "events", "kept"),
    [
        ("handled", 9, 2, [0, 0]),  # it comes again
        ("skip", 0, 1, [0, 0]),
        ("decline", 0, 1, [1, CODE + 0x1F]),
        ("fault", 0, 1, [1, CODE + 0x1E]),
    ],
)
def test_a_breakpoint(does: str, status: int, events: int, kept: list[int], vendor: str, found: dict[str, Any]) -> None:
    """The instruction has not happened: the level steps over it, or the guest takes #BP, as a trap or as a fault."""
    case = found[f"breakpoint, {does}"]
    assert (case["status"], case["kept"]) == (status, kept)
    assert case["seen"][0] == [[case["expected"][0], 3, RAW[vendor]["breakpoint"], 0, 0, 0, READ, 1, 0]] * events
