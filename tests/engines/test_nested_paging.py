"""Nested paging under the svm and vmx engines: composed maps, faults that levels claim, changes at run time."""

from __future__ import annotations

from typing import Any

import pytest
from lab_cases import run_cases
from vendors import vmx_alone

from nestvmm.lab import Lab
from nestvmm.x86.rights import Rights

AREA, PAGE = 4 << 20, 0x1000
SWITCHER = 0x7FFFE00000
ONES = (1 << 64) - 1
READ, WRITE, EXECUTE = 0, 1, 2
NONE, RX, RW = Rights(0), Rights.READ | Rights.EXECUTE, Rights.READ | Rights.WRITE
# Exit code, and EXITINFO1 (AMD APM vol. 2, 15.25.6): present, write, user, fetch; at the final address or in the
# guest's tables. Or basic exit reason, and exit qualification (Intel SDM vol. 3, table 28-7): the access, the page's
# rights, and a linear address, of the access itself or of a walk.
NPF, P, W, U, F, FINAL, WALK = 0x400, 1 << 0, 1 << 1, 1 << 2, 1 << 4, 1 << 32, 1 << 33
VIOLATION, MISCONFIGURATION, RIGHTS, LINEAR, ITSELF = 48, 49, 3, 1 << 7, 1 << 8


def fault(vendor: str, way: int, rights: Rights = NONE) -> list[int]:
    """Direction, information and exit code of an access that a map with these rights refuses."""
    if vendor == "svm":
        return [way, FINAL | U | {READ: 0, WRITE: W, EXECUTE: F}[way] | (P if rights else 0), NPF]
    return [way, 1 << way | rights.value << RIGHTS | LINEAR | ITSELF, VIOLATION]


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(vendor_lab, "engines/shadow_cases.py", vendor)


def ended(case: dict[str, Any]) -> bool:
    return (case["status"], case["message"]) == (0, "")


def test_maps_with_offsets_at_several_levels(found: dict[str, Any]) -> None:
    case = found["offsets"]
    assert ended(case)
    assert case["kept"] == [0x1111, 0x2222]
    assert case["memory"] == {"first": 0x1111, "second": 0x2222}
    assert case["exits"] == 1, "what the maps give is filled without an event"


def test_writes_to_protected_pages_are_logged_once_until_protected_again(vendor: str, found: dict[str, Any]) -> None:
    case = found["write log"]
    assert ended(case)
    log = [[address, *fault(vendor, WRITE, RX), 2] for address in (AREA + 0x18, AREA + 3 * PAGE + 0xFF8)]
    assert case["seen"] == [log * 2]
    assert (case["kept"], case["memory"]) == ([3], {"second": 2})
    assert case["exits"] == 4 + 2


def test_demand_paging_by_the_hypervisor_in_the_middle(vendor: str, found: dict[str, Any]) -> None:
    case = found["demand paging"]
    assert ended(case)
    writes = [[AREA + number * PAGE, *fault(vendor, WRITE), 3] for number in (7, 0, 3)]
    reads = [[address, *fault(vendor, READ), 3] for address in (AREA + 7 * PAGE, 0x110060)]
    assert case["seen"] == [writes + reads], "the last is the processor's, for the vector of #UD"
    assert case["kept"] == [8, 8, 6]
    assert case["memory"] == {"third": 4}


def test_a_fault_is_that_levels_whose_map_lacks_the_page(vendor: str, found: dict[str, Any]) -> None:
    case = found["two pagers"]
    assert ended(case)
    write = fault(vendor, WRITE)
    assert case["seen"] == [[[AREA + 9 * PAGE, *write, 2]], [[AREA + PAGE, *write, 3]]]
    assert (case["kept"], case["memory"]) == ([5], {"moved": 5})


def test_executing_what_gives_no_execution(vendor: str, found: dict[str, Any]) -> None:
    case = found["no execute"]
    assert ended(case)
    assert case["seen"] == [[[AREA, *fault(vendor, EXECUTE, RW), 2]]]
    assert case["kept"] == [0x77]


def test_executing_it_where_nobody_claims_that_ends_the_run(found: dict[str, Any]) -> None:
    case = found["no execute unclaimed"]
    assert case["status"] == 255
    assert case["message"].startswith(
        "guest at L2 died: it executed at physical address 0x400000, which the levels below do not let it\n"
    )


def test_a_pool_that_is_too_small_is_filled_again_and_again(found: dict[str, Any]) -> None:
    case = found["pool"]
    assert ended(case)
    assert case["kept"] == [sum(range(1, 15))]
    assert case["rebuilt"] >= 2
    assert case["used"] <= 12
    assert case["exits"] == 1


def test_gibibytes_take_two_tables(found: dict[str, Any]) -> None:
    case = found["few tables"]
    assert ended(case)
    assert (case["kept"], case["used"], case["rebuilt"]) == ([2], 2, 0)


def test_holes_exit_with_level_ns_address(found: dict[str, Any]) -> None:
    case = found["holes"]
    assert ended(case)
    assert case["seen"] == [[[AREA + 0x10, READ, 0, 8], [AREA + PAGE + 4, WRITE, 0x12345678, 4]]]
    assert case["kept"] == [1, ONES, 0]
    assert case["exits"] == 4


def test_holes_where_l0_has_its_own_memory(found: dict[str, Any]) -> None:
    """More pages than there are windows: each exit still names level n's address."""
    case = found["windows"]
    assert ended(case)
    pages = [*range(100), 99, 5]
    reads = [[SWITCHER + number * PAGE + 8 * number, READ, 0, 8] for number in pages]
    assert case["seen"] == [[*reads, [SWITCHER + 3 * PAGE + 0x88, WRITE, 0x77, 8]]]
    assert case["kept"] == [len(pages)]


def test_a_write_to_read_only_memory_exits_with_its_own_address(found: dict[str, Any]) -> None:
    case = found["read-only"]
    assert ended(case)
    assert case["seen"] == [[[AREA, WRITE, 1, 8], [AREA + PAGE, WRITE, 2, 4]]]
    assert (case["kept"], case["memory"]) == ([0xABCD], {"page": 0xABCD})


def test_what_all_decline_is_an_empty_bus_and_asked_once(vendor: str, found: dict[str, Any]) -> None:
    case = found["declined"]
    assert ended(case)
    assert case["seen"] == [
        [[AREA + 8, *fault(vendor, READ), 2], [AREA + 4 * PAGE, *fault(vendor, WRITE, RX), 2]],
    ]
    assert case["kept"] == [ONES, ONES, ONES, 0]


def test_how_many_declined_pages_are_remembered_is_bounded(found: dict[str, Any]) -> None:
    case = found["many declined"]
    assert ended(case)
    assert [address for address, *_ in case["seen"][0]] == [AREA + number * PAGE for number in (*range(20), 0)]
    assert case["kept"] == [ONES]


def test_a_page_moved_while_the_guest_runs(found: dict[str, Any]) -> None:
    case = found["moved"]
    assert ended(case)
    assert case["kept"] == [0x100, 0x102, 0x101, 0x55]


def test_a_change_that_the_guest_does_not_see(found: dict[str, Any]) -> None:
    case = found["unseen"]
    assert ended(case)
    assert (case["seen"], case["kept"], case["exits"]) == ([[]], [5], 3)


def test_the_walk_of_the_guests_own_tables_faults(vendor: str, found: dict[str, Any]) -> None:
    """AMD's processors walk to write; Intel's to read, where no accessed bits of EPT are asked for."""
    case = found["tables"]
    assert ended(case)
    assert case["kept"] == [0x33]
    [[[page, direction, info, raw, level]]] = case["seen"]
    walk = [WRITE, WALK | U | W, NPF] if vendor == "svm" else [READ, 1 << READ | LINEAR, VIOLATION]
    assert (page % PAGE, [direction, info, raw], level) == (0, walk, 2)


@vmx_alone
def test_an_entry_that_is_wrong_in_itself(found: dict[str, Any]) -> None:
    """L0 makes none: the case writes one into its tables. NPT has no such exit."""
    case = found["misconfigured"]
    assert ended(case)
    [[[address, direction, _, raw, level]]] = case["seen"]
    assert (address, direction, raw, level) == (AREA + 8, EXECUTE, MISCONFIGURATION, 2)
    assert (case["kept"], case["exits"]) == ([0, 7], 3)


def test_kvms_clock_follows_the_maps(vendor: str, found: dict[str, Any]) -> None:
    """Where the processor's TSC is stable, as Bochs's is, KVM gives the same time until something changes it."""
    case = found["clock"]
    assert ended(case)
    value, first, second, off = case["kept"]
    assert value == AREA + 0x41
    assert 0 < first < second if vendor == "svm" else 0 < first <= second
    assert off == 0
    assert first <= case["memory"]["first"] <= second - (vendor == "svm"), "the page before is left alone"
    assert case["memory"]["second"] == 0


def test_kvm_does_not_write_what_is_not_level_ns(found: dict[str, Any]) -> None:
    case = found["hostile msrs"]
    assert ended(case)
    assert case["kept"] == [8], "each of them is #GP, but for the last, which turns the clock off"
