"""The svm engine on kvm_amd: exceptions, traps, interrupts, NMIs, windows and port intercepts, with exact exits."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nestvmm.lab import Lab
from nestvmm.x86.exit_reason import ExitReason

pytestmark = pytest.mark.svm_lab

TESTS = Path(__file__).parents[1]
CODE = 0x100000
ANSWER = 0x7777
READ, WRITE, EXECUTE = 0, 1, 2
FAR = 0x8000000000
DR6_STEP = 0xFFFF4FF0
RFLAGS_IF = 0x200
# What an error code that names a gate has for each vector: 8 on a processor, 16 in QEMU's 64-bit mode (do_interrupt64).
GATE = 16

# Vector, error code, CR2, and where the instruction is.
EXCEPTIONS = {
    "de": (0, 0, 0, 0xC),
    "br": (5, 0, 0, 0x31),
    "ud": (6, 0, 0, 0xA),
    "nm": (7, 0, 0, 0x14),
    "ts": (10, 0x48, 0, 0x21),  # the TSS's selector
    "np": (11, 0x40, 0, 0x1C),
    "ss": (12, 0x40, 0, 0x1C),
    "gp": (13, 0xFFF8, 0, 0x14),
    "pf": (14, 2, FAR, 0x14),
    "mf": (16, 0, 0, 0x1A),
    "pf user": (14, 4, FAR, 0x71),
    "ud user": (6, 0, 0, 0x67),
}
# What the lab's processor does instead (QEMU, target/i386/tcg); the status that the guest ends with.
NOT_TRAPPED = {
    "bp": (3, "INT3 is looked at as INTn: see test_int3"),
    "of": (4, "so is INTO: see test_svm_modes"),
    "df": (8, "the intercept of #DF's causes is looked at, not that of what they become: raise_interrupt2"),
    "ac": (0x55, "alignment is never checked"),
    "xm": (0x55, "SSE's exceptions only set MXCSR's bits: update_mxcsr_from_sse_status"),
}


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), str(TESTS / "engines")])
    command = [sys.executable, str(TESTS / "engines" / "svm_cases.py"), "events"]
    result = svm_lab.run(command, env={"PYTHONPATH": path}, timeout=240)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def brief(events: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    """Some fields of each event."""
    return [[event[name] for name in names] for event in events]


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_a_level_sees_an_exception_with_its_error_code(name: str, found: dict[str, Any]) -> None:
    vector, error, cr2, rip = EXCEPTIONS[name]
    for does in ("decline", "skip"):
        (event,) = found[f"exception {name} {does}"]["seen"][0]
        event = {key: value for key, value in event.items() if key != "instruction"}
        expected = {"raw": 0x40 + vector, "qualifier": vector, "info": error, "value": cr2, "rip": rip}
        assert event == {**expected, "direction": EXECUTE, "size": 0, "length": 0}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_a_declined_exception_is_the_guests(name: str, found: dict[str, Any]) -> None:
    vector, error, cr2, rip = EXCEPTIONS[name]
    case = found[f"exception {name} decline"]
    assert (case["status"], case["message"]) == (vector, "")
    assert case["kept"][:3] == [error, CODE + rip, cr2]


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_a_handled_exception_never_reaches_the_guest(name: str, found: dict[str, Any]) -> None:
    case = found[f"exception {name} skip"]
    assert (case["status"], case["kept"][:3], case["exits"]) == (0x55, [0, 0, 0], 2)


@pytest.mark.parametrize("name", NOT_TRAPPED)
def test_the_labs_processor_does_not_trap(name: str, found: dict[str, Any]) -> None:
    """Fails once it does: then the exception moves to EXCEPTIONS."""
    status, _ = NOT_TRAPPED[name]
    case = found[f"exception {name} skip"]
    assert (case["status"], case["seen"][0]) == (status, [])


@pytest.mark.parametrize(("name", "exits"), [("stepped", 1), ("stepped, declined", 2), ("stepped, answered", 2)])
def test_a_guest_that_steps_itself_sees_a_trap_behind_each_instruction(
    name: str, exits: int, found: dict[str, Any]
) -> None:
    """Also behind one that a level did, and behind one that L0 stepped over itself."""
    assert (found[name]["status"], found[name]["kept"][0], found[name]["exits"]) == (0, 6, exits)


def test_a_level_sees_the_guests_traps(found: dict[str, Any]) -> None:
    for does, kept in (("handled", [0, 0]), ("declined", [4, DR6_STEP])):
        case = found[f"traps {does}"]
        assert (case["status"], case["kept"]) == (0, kept)
        assert brief(case["seen"][0], "raw", "value", "rip") == [
            [0x41, DR6_STEP, rip] for rip in (0x12, 0x13, 0x1A, 0x1B)
        ]


@pytest.mark.parametrize("name", ["popf", "popf declined"])
def test_popf_that_sets_the_trap_flag(name: str, found: dict[str, Any]) -> None:
    assert (found[name]["status"], found[name]["kept"]) == (0, [1, CODE + 0xF])


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


def test_a_declined_int_that_its_gate_refuses_faults_at_the_instruction(found: dict[str, Any]) -> None:
    case = found["int user"]
    assert brief(case["seen"][0], "raw", "qualifier", "rip") == [[0x75, 0x55, 0x65]]
    assert (case["status"], case["kept"]) == (13, [0x55 * GATE + 2, CODE + 0x65])


def test_a_step_that_faults_leaves_nothing_behind(found: dict[str, Any]) -> None:
    case = found["step faults"]
    assert (case["status"], case["kept"][0]) == (13, 2)
    assert brief(case["seen"][0], "raw", "rip") == [[0x6B, 0x12], [0x6B, 0x12013]]


def test_pushf_does_not_store_the_trap_flag_of_l0(found: dict[str, Any]) -> None:
    case = found["pushed"]
    assert (case["status"], case["kept"], brief(case["seen"][0], "raw")) == (0, [0x46], [[0x70]])


def test_exceptions_on_top_of_each_other(found: dict[str, Any]) -> None:
    """AMD APM vol. 2, table 8-8; the error code is the missing gate's."""
    case = found["benign first"]
    assert (case["status"], case["kept"]) == (13, [6 * GATE + 2])
    case = found["double fault"]
    assert (case["status"], case["kept"]) == (8, [0])
    case = found["triple fault"]
    assert (case["status"], case["message"]) == (255, "guest at L2 died: triple fault")
    assert brief(case["seen"][0], "raw", "rip") == [[0x4D, 0x1A]] * 2


def test_an_injected_exception_comes_behind_the_exit(found: dict[str, Any]) -> None:
    assert (found["inject"]["status"], found["inject"]["kept"]) == (0, [0x5A8, CODE + 0x1D])


@pytest.mark.parametrize(
    ("name", "kept", "exits"),
    [
        ("interrupt", [1, 0], 2),
        ("interrupt waits", [1, 1], 2),
        ("two interrupts", [1, 1], 2),  # the higher vector first
        ("interrupt wakes", [1, 0], 3),
        ("interrupt wakes, hlt declined", [1, 0], 3),
        ("nmi", [1, 1], 2),
        ("nmi in nmi", [2, 1], 3),  # the second comes behind the first one's IRET
    ],
)
def test_injected_interrupts_and_nmis(name: str, kept: list[int], exits: int, found: dict[str, Any]) -> None:
    assert (found[name]["status"], found[name]["kept"], found[name]["exits"]) == (0, kept, exits)


def test_windows(found: dict[str, Any]) -> None:
    """VINTR's exit is behind the instruction after STI; NMIs can come at once."""
    case = found["interrupt window"]
    assert (case["status"], case["seen"][0]) == (0, [[ExitReason.INTERRUPT_WINDOW, 0x64, 34, RFLAGS_IF]])
    case = found["nmi window"]
    assert (case["status"], case["seen"][0]) == (0, [[ExitReason.NMI_WINDOW, 0x74, 29, 0]])


def test_external_interrupts(found: dict[str, Any]) -> None:
    """The exit is behind STI; the handler's turn comes an instruction later."""
    assert (found["tick"]["status"], found["tick"]["kept"][0], found["tick"]["exits"]) == (0, 1, 1)
    for does, kept in (("declined", 1), ("handled", 0)):
        case = found[f"tick {does}"]
        ((raw, vector, length),) = brief(case["seen"][0], "raw", "qualifier", "length")
        assert (raw, vector, length, case["status"], case["kept"][0], case["exits"]) == (0x60, 0x20, 0, 0, kept, 2)


def test_an_interrupt_wakes_from_a_declined_hlt(found: dict[str, Any]) -> None:
    case = found["tick wakes"]
    assert (case["status"], case["kept"], brief(case["seen"][0], "raw")) == (0, [1, 1], [[0x78]])
    case = found["tick wakes, declined"]
    ((hlt, at),) = brief(case["seen"][0], "raw", "rip")
    ((interrupt, behind),) = brief(case["seen"][1], "raw", "rip")
    assert (hlt, interrupt, behind - at) == (0x78, 0x60, 1)
    assert (case["status"], case["kept"]) == (0, [1, 1])


@pytest.mark.parametrize(("name", "raw", "taken"), [("nmi", 0x61, 1), ("smi", 0x62, 0), ("init", 0x63, 0)])
def test_what_the_apic_delivers(name: str, raw: int, taken: int, found: dict[str, Any]) -> None:
    for does, kept in (("handled", 0), ("decline", taken)):
        case = found[f"{name} {does}"]
        assert brief(case["seen"][0], "raw", "rip") == [[raw, 0x4A]]
        if (name, does) != ("init", "decline"):
            assert (case["status"], case["kept"]) == (0, [kept, 1])
    if name == "init":
        for does, level in (("decline", 2), ("unclaimed", 1)):
            case = found[f"init {does}"]
            assert (case["status"], case["message"]) == (
                255,
                f"guest at L{level} died: an INIT reset its only processor",
            )
    else:
        assert found[f"{name} unclaimed"]["kept"] == [taken, 1]


def test_a_level_repairs_a_shutdown(found: dict[str, Any]) -> None:
    case = found["shutdown"]
    assert (case["status"], case["kept"][0], brief(case["seen"][0], "raw", "rip")) == (0, 1, [[0x7F, 0]])


# Qualifier, direction, size, value, EXITINFO1, length, where the instruction is (AMD APM vol. 2, 15.10.2).
PORTS = {
    "port out": [[0x5000, WRITE, 2, 0x1234, 0x50000020, 2, 0x14]],
    "port in": [[0x5001, READ, 4, 0, 0x50010041, 1, 0x1E]],
    "port outs": [[0x5000, WRITE, 2, 0, 0x5000002C, 3, 0x1E]] * 3,
    "port ins": [[0x5000, READ, 2, 0, 0x5000002D, 3, 0x1E]],
    "port fault": [[0x5000, READ, 1, 0, 0x50000011, 1, 0x1C]],
    "port declined": [[0x5000, READ, 1, 0, 0x50000011, 1, 0x14]],
    "port user": [[0x5000, READ, 2, 0, 0x50000021, 2, 0x7B]],
    "port stepped": [[0x70, READ, 1, 0, 0x700011, 2, 0x11]],
    "port unclaimed": [],
}


@pytest.mark.parametrize("name", PORTS)
def test_ports_by_bitmap(name: str, found: dict[str, Any]) -> None:
    case = found[name]
    fields = ("qualifier", "direction", "size", "value", "info", "length", "rip")
    assert (case["status"], brief(case["seen"][0], *fields)) == (0, PORTS[name])
    assert {event["raw"] for event in case["seen"][0]} <= {0x7B}
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
