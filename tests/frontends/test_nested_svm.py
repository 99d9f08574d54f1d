"""Hypervisors in machine code at level 1, on SVM by software: what AMD APM vol. 2, chapter 15 promises them."""

from typing import Any

import pytest
from lab_cases import run_cases

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

GUEST = 0x140000
INVALID = (1 << 64) - 1
CPUID_EXIT, INTR_EXIT, NMI_EXIT, VINTR_EXIT, IO_EXIT, MSR_EXIT, VMMCALL_EXIT, NPF = (
    0x72, 0x60, 0x61, 0x64, 0x7B, 0x7C, 0x81, 0x400,
)  # fmt: skip

BROKEN = [
    "EFER.SVME clear", "CR0.NW without CD", "CR0's upper half", "CR3's reserved bits", "CR4's reserved bits",
    "DR6's upper half", "DR7's upper half", "EFER's reserved bits", "long mode without PAE", "long mode without PE",
    "CS.L with CS.D", "no VMRUN intercept", "MSRPM outside", "IOPM outside", "IOPM's end outside",
    "event of a reserved type", "event 5", "exception 2", "exception 9", "exception 32", "#BR in 64-bit code", "ASID 0",
    "reserved TLB control", "nested CR3 outside", "reserved memory type",
]  # fmt: skip


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    found = run_cases(svm_lab, "frontends/nested_cases.py")
    assert [name for name, case in found.items() if case["message"]] == []
    return found


def rows(case: dict[str, Any], width: int = 4) -> list[list[int]]:
    kept = case["kept"]
    return [kept[at : at + width] for at in range(0, len(kept), width)]


def test_level_1_answers_level_2s_cpuid(found: dict[str, Any]) -> None:
    case = found["first"]
    assert (case["status"], case["kept"]) == (3, [CPUID_EXIT, 0x77, 0x1234])
    assert (case["entered"][0], case["reflected"][0]) == (2, 1)


@pytest.mark.parametrize("rule", BROKEN)
def test_vmrun_refuses_a_block_that_breaks(rule: str, found: dict[str, Any]) -> None:
    case = found["invalid"]
    assert case["kept"][case["names"].index(rule)] == INVALID


def test_vmrun_takes_the_block_that_breaks_no_rule(found: dict[str, Any]) -> None:
    case = found["invalid"]
    assert sorted(case["names"]) == sorted(BROKEN)
    assert case["kept"][len(BROKEN)] == VMMCALL_EXIT


@pytest.mark.parametrize(
    ("number", "kind", "vector", "on_stack"),
    [
        (0, 0, 0x20, GUEST), (1, 0, 0xFF, GUEST), (2, 2, 2, GUEST), (3, 3, 0, GUEST), (4, 3, 1, GUEST),
        (5, 3, 3, GUEST + 5), (6, 3, 4, GUEST + 5), (7, 3, 6, GUEST), (8, 3, 8, 0x5A8), (9, 3, 13, 0x5A8),
        (10, 3, 14, 0x5A8), (11, 4, 0x80, GUEST + 5), (12, 4, 3, GUEST + 5),
    ],
)  # fmt: skip
def test_an_injected_event_is_delivered(
    number: int, kind: int, vector: int, on_stack: int, found: dict[str, Any]
) -> None:
    """Software interrupts return to the next RIP; the valid bit of EVENTINJ is clear afterwards."""
    code, taken, injection, top = rows(found["events"])[number]
    error = 1 << 11 | 0x5A8 << 32 if on_stack == 0x5A8 else 0
    assert (code, taken, injection, top) == (VMMCALL_EXIT, vector, kind << 8 | vector | error, on_stack)


def test_the_port_map_counts_each_byte_of_an_access(found: dict[str, Any]) -> None:
    """EXITINFO1 has port, size and direction, EXITINFO2 the next RIP."""
    case = found["ports"]
    assert rows(case)[:4] == [
        [IO_EXIT, 0x5003 << 16 | 0x10, GUEST + 0x15, GUEST + 0x14],
        [IO_EXIT, 0x5002 << 16 | 0x20, GUEST + 0x2B, GUEST + 0x29],
        [IO_EXIT, 0x5000 << 16 | 0x40, GUEST + 0x40, GUEST + 0x3F],
        [IO_EXIT, 0x5003 << 16 | 0x11, GUEST + 0x55, GUEST + 0x54],
    ]
    assert case["kept"][16] == VMMCALL_EXIT


def test_the_msr_map_counts_reads_and_writes_apart(found: dict[str, Any]) -> None:
    case = found["msrs"]
    assert rows(case)[:3] == [
        [MSR_EXIT, 1, 0x55667788, 0xC0000081],
        [MSR_EXIT, 0, 8, 0x174],
        [MSR_EXIT, 0, 8, 0x4E570000],
    ]
    assert case["kept"][12:] == [VMMCALL_EXIT, 0, 8]


def test_intercepted_exceptions_exit_with_what_the_processor_tells(found: dict[str, Any]) -> None:
    case = found["exceptions"]
    assert rows(case)[:3] == [
        [0x46, 0, 0, GUEST],
        [0x4E, 0, 0x1000000000, GUEST + 0x16],
        [0x4D, 0x1234, 0, GUEST + 0x23],
    ]
    assert case["kept"][12:] == [VMMCALL_EXIT, 6]  # the handler of the one that is not intercepted any more


def test_nested_paging_moves_withholds_and_marks(found: dict[str, Any]) -> None:
    case = found["paging"]
    assert rows(case)[0][:2] == [VMMCALL_EXIT, 0]
    # what is read; the leaf with its accessed bit, and with its dirty bit; what was written
    assert case["kept"][4:8] == [0xABCD, 0x2000A7, 0x2000E7, 0x77]
    final, tables = 1 << 32, 1 << 33
    assert [row[:3] for row in rows(case)[2:]] == [
        [NPF, final | 0x7, 0x300010],
        [NPF, final | 0x14, 0x300000],
        [NPF, final | 0x4, 0x300000],
        [NPF, final | 0xD, 0x300000],
        [NPF, tables | 0xF, 0x2000],
        [NPF, tables | 0x6, 0x2000],
    ]


def test_svm_instructions_fault_as_the_manual_says(found: dict[str, Any]) -> None:
    kept = found["instructions"]["kept"]
    undefined, protection, none = 6, 13, 0xFF
    assert kept[:7] == [undefined] * 7  # EFER.SVME is clear
    assert kept[7:16] == [protection] * 9  # a block at no page, beyond physical addresses, and where no memory is
    assert kept[16:22] == [none] * 6
    assert kept[22:28] == [undefined, protection, protection, protection, none, protection]
    vm_cr, hsave, efer, revision, features, locked = kept[40:46]
    assert (vm_cr, hsave, efer, revision, features, locked) == (0, 0x13C000, 0x1500, 1, 0x194E9, 0x18)


def test_svm_instructions_are_stepped_as_all_others(found: dict[str, Any]) -> None:
    """STGI, CLGI, INVLPGA, VMLOAD, VMSAVE; and VMRUN, behind its guest's exit or when it is refused."""
    case = found["stepped"]
    assert len(case["behind"]) == 7
    assert case["kept"] == case["behind"]


def test_vmsave_and_vmload_move_what_vmrun_leaves(found: dict[str, Any]) -> None:
    assert found["live state"]["kept"] == [0x1110, 0x1111, 0x1112, 0x1113, 0x2220, 0x2221, 0x1112, 0x1113]


@pytest.mark.parametrize(("name", "met"), [("clusters", 3), ("clusters above Python", 0)])
def test_what_l0_does_between_svm_instructions_is_what_the_processor_does(
    name: str, met: int, found: dict[str, Any]
) -> None:
    """VMLOAD behind VMSAVE, twice, and VMRUN behind VMLOAD, without an exit; not where a Python level could look on."""
    kept = found[name]["kept"]
    assert kept[:3] == [0x1111, 0x2222, 0x9999]
    scratch, stack = 0x170000, 0x172000
    assert kept[3:8] == kept[8:13] == [0x3333, scratch, stack + 8, 0x3333, 0x4444]
    assert kept[13:] == [(1 << 64) - 1, VMMCALL_EXIT, 0x5555, 0x130000]
    assert found[name]["met"] == met


def test_random_instructions_between_them_are_done_alike(found: dict[str, Any]) -> None:
    """By L0 where it may, and by the processor alone: registers and memory are the same."""
    by_l0, by_processor = found["random moves"], found["random moves above Python"]
    assert by_l0["kept"] == by_processor["kept"]
    assert (by_l0["met"] > 50, by_processor["met"]) == (True, 0)


def test_a_real_interrupt_waits_for_stgi_though_the_processor_does_it(found: dict[str, Any]) -> None:
    taken, before, after = found["held back"]["kept"]
    assert (before, after) == (0, 1)
    assert taken >= 1


def test_a_virtual_interrupt_waits_for_the_guests_flag_and_priority(found: dict[str, Any]) -> None:
    idle, asked = 0x41 << 32 | 0x109 << 16, 0x41 << 32 | 0x109 << 16 | 1 << 8
    kept = found["virtual interrupts"]["kept"]
    assert kept[:2] == [0x41, idle]
    assert kept[2:7] == [0, asked, GUEST, 0x41, idle]
    assert kept[7:10] == [VINTR_EXIT, GUEST + 5, asked]
    assert kept[10] == VMMCALL_EXIT


@pytest.mark.parametrize(("name", "code"), [("interrupt", INTR_EXIT), ("nmi", NMI_EXIT)])
def test_what_comes_from_below_is_an_exit_and_waits_for_gif(name: str, code: int, found: dict[str, Any]) -> None:
    """A Python hypervisor at level 1 asks for it while level 3 runs: level 2 exits, and takes it after STGI."""
    case = found[name]
    assert case["seen"] == [[2]]
    assert case["kept"] == [code, GUEST + 0x15, 0, 0x99, 0x99, VMMCALL_EXIT]
