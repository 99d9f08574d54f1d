"""The vmx engine on kvm_intel: exceptions, traps, interrupts, NMIs, windows and port intercepts, with exact exits."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nestvmm.lab import Lab
from nestvmm.x86.exit_reason import ExitReason

pytestmark = pytest.mark.vmx_lab

TESTS = Path(__file__).parents[1]
CODE = 0x100000
ANSWER = 0x7777
READ, WRITE, EXECUTE = 0, 1, 2
FAR = 0x8000000000
DR6_STEP, STEP = 0xFFFF4FF0, 0x4000
RFLAGS_IF = 0x200
# An error code that names a gate: 8 times the vector, the bit for the IDT, and that the event came from outside.
GATE, IDT, EXTERNAL = 8, 2, 1

# Vector, error code, linear address, and where the instruction is.
EXCEPTIONS = {
    "de": (0, 0, 0, 0xC),
    "bp": (3, 0, 0, 0xA),
    "ud": (6, 0, 0, 0xA),
    "nm": (7, 0, 0, 0x14),
    "df": (8, 0, 0, 0x14),
    "np": (11, 0x40, 0, 0x1C),
    "ss": (12, 0x40, 0, 0x1C),
    "gp": (13, 0xFFF8, 0, 0x14),
    "pf": (14, 2, FAR, 0x14),
    "mf": (16, 0, 0, 0x1A),
    "ac": (17, 0, 0, 0x85),
    "pf user": (14, 4, FAR, 0x71),
    "ud user": (6, 0, 0, 0x67),
}
# The RDMSR that #DF comes of is an exit of its own, which L0 answers by #GP.
MORE_EXITS = {"df": 1}


@pytest.fixture(scope="module")
def found(vmx_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, str(TESTS / "engines" / "vmx_cases.py"), "events"]
    result = vmx_lab.run(command, env={"PYTHONPATH": path}, timeout=900)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def brief(events: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    """Some fields of each event."""
    return [[event[name] for name in names] for event in events]


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_a_level_sees_an_exception_with_its_error_code(name: str, found: dict[str, Any]) -> None:
    vector, error, address, rip = EXCEPTIONS[name]
    for does in ("decline", "skip"):
        (event,) = found[f"exception {name} {does}"]["seen"][0]
        event = {key: value for key, value in event.items() if key != "instruction"}
        expected = {"raw": 0, "qualifier": vector, "info": error, "value": address, "rip": rip}
        assert event == {**expected, "direction": EXECUTE, "size": 0, "length": 0}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_a_declined_exception_is_the_guests(name: str, found: dict[str, Any]) -> None:
    vector, error, address, rip = EXCEPTIONS[name]
    case = found[f"exception {name} decline"]
    assert (case["status"], case["message"]) == (vector, "")
    # INT3 is a trap: it leads behind itself
    assert case["kept"][:3] == [error, CODE + rip + (name == "bp"), address]


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_a_handled_exception_never_reaches_the_guest(name: str, found: dict[str, Any]) -> None:
    case = found[f"exception {name} skip"]
    assert (case["status"], case["kept"][:3], case["exits"]) == (0x55, [0, 0, 0], 2 + MORE_EXITS.get(name, 0))


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
        assert brief(case["seen"][0], "raw", "qualifier", "value", "rip") == [
            [0, 1, STEP, rip] for rip in (0x12, 0x13, 0x1A, 0x1B)
        ]


def test_popf_that_sets_the_trap_flag(found: dict[str, Any]) -> None:
    assert (found["popf"]["status"], found["popf"]["kept"]) == (0, [1, CODE + 0xF])


def test_a_step_that_faults_leaves_nothing_behind(found: dict[str, Any]) -> None:
    case = found["step faults"]
    assert (case["status"], case["kept"][0]) == (13, 2)
    assert brief(case["seen"][0], "raw", "rip", "length") == [[46, 0x12, 3], [46, 0x12013, 8]]


def test_exceptions_on_top_of_each_other(found: dict[str, Any]) -> None:
    """Intel SDM vol. 3, table 6-5; the error code is the missing gate's."""
    case = found["benign first"]
    assert (case["status"], case["kept"]) == (13, [6 * GATE + IDT + EXTERNAL])
    case = found["double fault"]
    assert (case["status"], case["kept"]) == (8, [0])
    assert brief(case["seen"][0], "qualifier", "info", "rip") == [[13, 11 * GATE + IDT + EXTERNAL, 0x1A]]
    case = found["triple fault"]
    assert (case["status"], case["message"]) == (255, "guest at L2 died: triple fault")
    assert brief(case["seen"][0], "qualifier", "info", "rip") == [
        [13, vector * GATE + IDT + EXTERNAL, 0x1A] for vector in (11, 8)
    ]


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
    """The interrupt window is behind the instruction after STI; NMIs can come at once."""
    case = found["interrupt window"]
    assert (case["status"], case["seen"][0]) == (0, [[ExitReason.INTERRUPT_WINDOW, 7, 34, RFLAGS_IF]])
    case = found["nmi window"]
    assert (case["status"], case["seen"][0]) == (0, [[ExitReason.NMI_WINDOW, 8, 29, 0]])


def test_external_interrupts(found: dict[str, Any]) -> None:
    """Acknowledged when the guest takes interrupts: until then its controller shows it pending."""
    assert (found["tick"]["status"], found["tick"]["kept"][0], found["tick"]["exits"]) == (0, 1, 1)
    for does, kept in (("declined", 1), ("handled", 0)):
        case = found[f"tick {does}"]
        assert brief(case["seen"][0], "raw", "qualifier", "length") == [[1, 0x20, 0]]
        assert (case["status"], case["kept"][0], case["exits"]) == (0, kept, 2)


def test_an_interrupt_wakes_from_a_declined_hlt(found: dict[str, Any]) -> None:
    """KVM has had it pending since before the guest stopped."""
    case = found["tick wakes"]
    assert (case["status"], case["kept"], brief(case["seen"][0], "raw")) == (0, [1, 1], [[12]])
    case = found["tick wakes, declined"]
    ((hlt, at),) = brief(case["seen"][0], "raw", "rip")
    ((interrupt, behind),) = brief(case["seen"][1], "raw", "rip")
    assert (hlt, interrupt, behind - at) == (12, 1, 1)
    assert (case["status"], case["kept"]) == (0, [1, 1])


@pytest.mark.parametrize(("name", "raw", "taken"), [("nmi", 0, 1), ("init", 3, 0)])
def test_what_the_apic_delivers(name: str, raw: int, taken: int, found: dict[str, Any]) -> None:
    for does, kept in (("handled", 0), ("decline", taken)):
        case = found[f"{name} {does}"]
        assert brief(case["seen"][0], "raw", "qualifier", "rip") == [[raw, 0, 0x4A]]
        if (name, does) != ("init", "decline"):
            assert (case["status"], case["kept"]) == (0, [kept, 1])


def test_what_the_apic_delivers_and_nobody_claims(found: dict[str, Any]) -> None:
    assert found["nmi unclaimed"]["kept"] == [1, 1]
    for does, level in (("decline", 2), ("unclaimed", 1)):
        case = found[f"init {does}"]
        assert (case["status"], case["message"]) == (255, f"guest at L{level} died: an INIT reset its only processor")


def test_an_smi_ends_the_guest(found: dict[str, Any]) -> None:
    """VMX has no exit for it here (Intel SDM vol. 3, 32.14): KVM enters SMM, where nothing is."""
    case = found["smi unclaimed"]
    assert case["status"] == 255
    assert case["message"].startswith("guest at L1 died: KVM could not fetch its next instruction")


def test_a_level_repairs_a_shutdown(found: dict[str, Any]) -> None:
    case = found["shutdown"]
    assert (case["status"], case["kept"][0], brief(case["seen"][0], "raw", "rip")) == (0, 1, [[2, 0]])


# Qualifier, direction, size, value, exit qualification (Intel SDM vol. 3, table 28-5), length, where it is.
PORTS = {
    "port out": [[0x5000, WRITE, 2, 0x1234, 0x50000001, 2, 0x14]],
    "port in": [[0x5001, READ, 4, 0, 0x5001000B, 1, 0x1E]],
    "port outs": [[0x5000, WRITE, 2, 0, 0x50000031, 3, 0x1E]] * 3,
    "port ins": [[0x5000, READ, 2, 0, 0x50000039, 3, 0x1E]],
    "port fault": [[0x5000, READ, 1, 0, 0x50000008, 1, 0x1C]],
    "port declined": [[0x5000, READ, 1, 0, 0x50000008, 1, 0x14]],
    "port user": [[0x5000, READ, 2, 0, 0x50000009, 2, 0x7B]],
    "port stepped": [[0x70, READ, 1, 0, 0x700048, 2, 0x11]],
    "port unclaimed": [],
}


@pytest.mark.parametrize("name", PORTS)
def test_ports_by_bitmap(name: str, found: dict[str, Any]) -> None:
    case = found[name]
    fields = ("qualifier", "direction", "size", "value", "info", "length", "rip")
    assert (case["status"], brief(case["seen"][0], *fields)) == (0, PORTS[name])
    assert {event["raw"] for event in case["seen"][0]} <= {30}
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
