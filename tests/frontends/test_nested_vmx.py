"""Hypervisors in machine code at level 1, on VMX by software: what Intel SDM vol. 3, chapters 24 to 31 promise them."""

from typing import Any

import pytest
from lab_cases import run_cases
from nested_vmx_rules import CONTROLS, GUEST_STATE, HOST_STATE
from nested_vmx_try import INVALIDATIONS

from nestvmm.lab import Lab, kvm_intel_nests

pytestmark = pytest.mark.vmx_lab

GUEST = 0x140000
VMCALL, IO, RDMSR, WRMSR, CR, EXCEPTION, INTERRUPT = 18, 30, 31, 32, 28, 0, 1
WINDOW, NMI_WINDOW, TIMER, VIOLATION, MISCONFIGURATION = 7, 8, 52, 48, 49
TPR_THRESHOLD, VMXON = 43, 27
FAILED = 1 << 31
INVALID, VALID = 1, 0x40  # CF, ZF
FLAGS = 0x8D5  # CF, PF, AF, ZF, SF, OF: an instruction that fails sets one and clears the others (31.2)
READ, WRITE = 1, 2  # of an EPT violation's exit qualification
UNDEFINED, PROTECTION, PAGE_FAULT = 0x106, 0x10D, 0x10E
ABORTS = ("abort of storing", "abort of loading")
TRIPLE_FAULT = 2


@pytest.fixture(scope="module")
def found(vmx_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    found = run_cases(vmx_lab, "frontends/nested_vmx_cases.py")
    assert {name: case["message"] for name, case in found.items() if case["message"] and name not in ABORTS} == {}
    return found


def rows(case: dict[str, Any], width: int = 4, first: int = 0) -> list[list[int]]:
    kept = case["kept"]
    return [kept[at : at + width] for at in range(first, len(kept), width)]


def test_level_1_answers_level_2s_cpuid(found: dict[str, Any]) -> None:
    case = found["first"]
    assert (case["status"], case["kept"]) == (3, [10, 2, 0, 0x1234])
    assert (case["entered"][0], case["reflected"][0]) == (2, 1)


@pytest.mark.parametrize("rule", CONTROLS)
def test_an_entry_refuses_controls(rule: str, found: dict[str, Any]) -> None:
    case = found["controls"]
    flags, error = rows(case)[case["names"].index(rule)][:2]
    assert (flags & FLAGS, error) == (VALID, 7)


@pytest.mark.parametrize("rule", HOST_STATE)
def test_an_entry_refuses_a_host_state(rule: str, found: dict[str, Any]) -> None:
    case = found["host"]
    flags, error = rows(case)[case["names"].index(rule)][:2]
    assert (flags & FLAGS, error) == (VALID, 8)


@pytest.mark.parametrize("rule", GUEST_STATE)
def test_an_entry_fails_for_a_guest_state(rule: str, found: dict[str, Any]) -> None:
    """It is an exit then."""
    case = found["guest"]
    row = rows(case)[case["names"].index(rule)]
    assert (row[0], row[2], row[3]) == (0, FAILED | 33, GUEST_STATE[rule][0])


@pytest.mark.parametrize("name", ["controls", "host", "guest"])
def test_an_entry_takes_what_breaks_no_rule(name: str, found: dict[str, Any]) -> None:
    flags, _, reason, _ = rows(found[name])[-1]
    assert (flags, reason) == (0, VMCALL)


def test_vmx_instructions_fail_as_the_manual_says(found: dict[str, Any]) -> None:
    kept = found["instructions"]["kept"]
    assert kept[:12] == [UNDEFINED] * 12  # CR4.VMXE is clear, or VMX operation is off
    assert kept[12:20] == [PROTECTION, PROTECTION, PROTECTION, PROTECTION, INVALID, INVALID, INVALID, 0]
    assert kept[20:26] == [INVALID, INVALID, INVALID, INVALID, 0, 0]
    errors = [9, 10, 11, 2, 3, 15, 1, 12, 12, 13, 12, 5, 28, 28, 28, 28, 26]
    assert kept[26:60] == [word for error in errors for word in (VALID, error)]
    assert kept[60:66] == [0, 0, PROTECTION, PAGE_FAULT, PROTECTION, PROTECTION]
    assert kept[66:70] == [0, INVALID, 0, UNDEFINED]


def test_invept_and_invvpid_take_types_and_descriptors_that_there_are(found: dict[str, Any]) -> None:
    told = rows(found["invalidations"], 2)
    wanted = [error for ways in INVALIDATIONS.values() for *_, error in ways]
    assert [flags for flags, _ in told] == [VALID if error else 0 for error in wanted]
    assert [error for flags, error in told if flags] == [error for error in wanted if error]


def test_vmx_operation_keeps_paging_on(found: dict[str, Any]) -> None:
    """In 32-bit code: a fault in VMX operation, nothing outside."""
    assert found["instructions"]["kept"][99:101] == [PROTECTION, 0]


def test_a_guest_keeps_paging_on_unless_it_is_unrestricted(found: dict[str, Any]) -> None:
    """An unrestricted guest has it off; another one gets #GP, as does a hypervisor; an exception bitmap sees that."""
    kept = found["held in a chain"]["kept"]
    assert kept[:3] == [1, 13, 13]
    assert kept[4:] == [EXCEPTION, 1 << 31 | 1 << 11 | 3 << 8 | 13]


def test_fields_are_as_wide_as_their_encodings_say(found: dict[str, Any]) -> None:
    kept = found["instructions"]["kept"]
    assert kept[70:77] == [0x131000, 0x5555666633334444, 0x55556666, 0x2345, 0x23456789, 0x2345, 0x777]


def test_the_capabilities_are_those_of_the_front_end(found: dict[str, Any]) -> None:
    capabilities = found["instructions"]["kept"][80:97]
    assert capabilities[10] == 23 << 1  # the highest index of a field: the preemption timer's
    assert capabilities[0] == 0x4E56 | 4096 << 32 | 6 << 50 | 1 << 54 | 1 << 55
    pin, primary, exits, entry = (word >> 32 for word in capabilities[13:17])
    assert [word & 0xFFFFFFFF for word in capabilities[13:17]] == [0x16, 0x04006172, 0x36DFB, 0x11FB]
    assert pin == 0x7F
    assert primary & (1 << 21 | 1 << 27) == 0  # no monitor trap, nor, without KVM's interrupt controller, a TPR shadow
    assert (exits, entry) == (0x36DFF | 1 << 9 | 0xF << 18 | 1 << 22 | 1 << 15, 0x11FF | 1 << 9 | 3 << 14)
    assert capabilities[11] & 0xFFFFFFFF == 0
    assert capabilities[11] >> 32 & (1 << 1 | 1 << 5 | 1 << 7) == 1 << 1 | 1 << 5 | 1 << 7
    assert (capabilities[6], capabilities[8]) == (0x80000021, 0x2000)
    cpuid, cr4 = found["instructions"]["kept"][97:99]
    assert (cpuid >> 5 & 1, cr4 & 0x2000) == (1, 0x2000)


def test_a_tpr_shadow_is_level_2s_cr8(found: dict[str, Any]) -> None:
    """30.3: moves to and from it do not exit; a value below the threshold does, behind the move."""
    case = found["TPR shadow"]
    assert case["kept"][:11] == [5, TPR_THRESHOLD, case["below"], 0, 0x20, VALID, 7, CR, 8 | 1 << 4, VMCALL, 0]


def test_an_entry_refuses_a_tpr_shadow_without_a_page_or_with_a_wrong_threshold(found: dict[str, Any]) -> None:
    """27.2.1.1; the case above enters when that is put right."""
    assert found["TPR shadow"]["kept"][11:] == [VALID] * 4


EVENTS = [
    (0, 0x20, GUEST), (0, 0xFF, GUEST), (2, 2, GUEST), (3, 0, GUEST), (3, 1, GUEST), (3, 6, GUEST), (3, 8, 0x5A8),
    (3, 13, 0x5A8), (3, 14, 0x5A8), (4, 0x80, GUEST + 5), (6, 3, GUEST + 5), (6, 4, GUEST + 5), (5, 1, GUEST + 5),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(EVENTS)))
def test_an_injected_event_is_delivered(number: int, found: dict[str, Any]) -> None:
    """Software interrupts and exceptions return behind their length; the valid bit is clear afterwards."""
    kind, vector, on_stack = EVENTS[number]
    error = 1 << 11 if on_stack == 0x5A8 else 0
    assert rows(found["events"])[number] == [VMCALL, vector, kind << 8 | vector | error, on_stack]


@pytest.mark.parametrize(
    ("number", "event", "error", "length"),
    [
        (0, 0x20, 0, None), (1, 2 << 8 | 2, 0, None), (2, 3 << 8 | 6, 0, None), (3, 1 << 11 | 3 << 8 | 13, 0x18, None),
        (4, 4 << 8 | 0x80, 0, 2), (5, 6 << 8 | 3, 0, 2),
    ],
)  # fmt: skip
def test_an_exit_in_a_delivery_tells_of_the_event(
    number: int, event: int, error: int, length: int | None, found: dict[str, Any]
) -> None:
    reason, vectoring, error_code, instruction = rows(found["vectoring"])[number]
    assert (reason, vectoring) == (VIOLATION, 1 << 31 | event)
    if error:
        assert error_code == error
    if length:
        assert instruction == length


def test_an_exception_in_a_delivery_is_an_exit_of_its_own(found: dict[str, Any]) -> None:
    """With the event (28.2.4); a double or triple fault without. At the end of canonical addresses the fetch faults."""
    coded = 1 << 31 | 1 << 11 | 3 << 8
    told = rows(found["faults in a delivery"])
    assert told[0] == [EXCEPTION, coded | 14, 0, 1 << 31 | 3 << 8 | 6]
    assert told[1] == [EXCEPTION, coded | 8, 0, 0]
    assert (told[2][0], told[2][3]) == (TRIPLE_FAULT, 0)
    assert told[3] == [EXCEPTION, coded | 13, 0, 0]


def test_the_port_bitmaps_count_each_byte_of_an_access(found: dict[str, Any]) -> None:
    case = found["ports"]
    assert rows(case, 3)[:4] == [
        [IO, 0x5003 << 16, GUEST + 0x14],
        [IO, 0x5002 << 16 | 1, GUEST + 0x29],
        [IO, 0x5000 << 16 | 3, GUEST + 0x3F],
        [IO, 0x5003 << 16 | 8, GUEST + 0x54],
    ]
    # without bitmaps, and with such as lie where no memory is
    assert case["kept"][12:] == [VMCALL, IO, 0x5001 << 16, IO]


def test_the_msr_bitmap_counts_reads_and_writes_apart(found: dict[str, Any]) -> None:
    kept = found["msrs"]["kept"]
    assert kept[:6] == [WRMSR, 0xC0000081, RDMSR, 0x174, RDMSR, 0x4E570000]
    assert kept[6:] == [VMCALL, 0, 8, RDMSR, RDMSR]  # level 1's STAR is as it was, SYSENTER_CS is saved


def test_lists_of_msrs_are_loaded_and_stored(found: dict[str, Any]) -> None:
    kept = found["msr lists"]["kept"]
    assert kept[:4] == [VMCALL, 0x22, 0x33, 0x11]
    # FS_BASE, reserved bits, and one by which KVM would write level 1's memory: the second element
    assert kept[4:10] == [FAILED | 34, 2] * 3
    assert kept[10:12] == [VMCALL, 1]
    assert kept[12:] == [FAILED | 34, 2] * 3  # values that WRMSR would not take


def test_of_a_list_without_end_its_beginning_is_loaded(found: dict[str, Any]) -> None:
    assert found["long list"]["kept"] == [FAILED | 33, 0xC0000081]


def test_pae_paging_without_ept_has_its_pointers_in_memory(found: dict[str, Any]) -> None:
    """A wrong one there is an entry that fails (27.3.1.6)."""
    assert found["pointers"]["kept"] == [VMCALL, 0x1234, FAILED | 33, 2]


@pytest.mark.parametrize("name", ABORTS)
def test_an_exit_that_cannot_move_msrs_is_the_end_of_the_machine(name: str, found: dict[str, Any]) -> None:
    case = found[name]
    assert case["status"] == 255
    assert case["message"].startswith("guest at L1 died: triple fault")


def test_efer_and_pat_move_by_their_controls(found: dict[str, Any]) -> None:
    assert found["mode"]["kept"] == [0xD01, 0x0606, VMCALL, 0xD01, 0x0404, 0x500, 0x0007040600070406]


def test_exceptions_exit_by_bitmap_mask_and_match(found: dict[str, Any]) -> None:
    kept = found["exceptions"]["kept"]
    hardware, coded = 1 << 31 | 3 << 8, 1 << 31 | 1 << 11 | 3 << 8
    assert kept[:5] == [EXCEPTION, hardware | 6, kept[2], 0, GUEST]
    assert kept[5:10] == [EXCEPTION, coded | 14, 0, 0x1000000000, GUEST + 0x16]
    assert kept[10:15] == [EXCEPTION, coded | 13, 0x1234, 0, GUEST + 0x23]
    assert (kept[15], kept[20]) == (VMCALL, 14)
    assert kept[21:26] == [EXCEPTION, coded | 14, 0, 0x1000000000, GUEST + 0x16]
    assert kept[26:] == [6, VMCALL]


def test_ept_moves_withholds_and_is_checked(found: dict[str, Any]) -> None:
    kept = found["paging"]["kept"]
    assert (kept[0], kept[4], kept[5]) == (VMCALL, 0xABCD, 0x77)
    linear = 0x180
    read_only, not_executable, absent = 5 << 3 | 2, 3 << 3 | 4, 4
    assert kept[8:12] == [VIOLATION, linear | read_only, 0x300010, 0x300010]
    assert kept[12:16] == [VIOLATION, linear | not_executable, 0x300000, 0x300000]
    assert kept[16:19] == [VIOLATION, kept[17], 0x300000]
    assert kept[17] & ~linear == 1
    for at in (20, 24, 28, 32, 36):
        assert kept[at : at + 3] == [MISCONFIGURATION, 0, 0x300000]
    assert absent
    assert kept[40] == MISCONFIGURATION  # a page-map entry that is a page
    assert kept[44] == MISCONFIGURATION  # tables where no memory is
    assert kept[48] in (VIOLATION, MISCONFIGURATION)  # a table that is its own
    assert kept[52:54] == [MISCONFIGURATION, 0]  # bit 6 of an entry that leads to a table


def test_masks_shadows_and_targets_of_control_registers(found: dict[str, Any]) -> None:
    kept = found["registers"]["kept"]
    assert kept[:2] == [0x80000039, 0x24]
    assert [row[:2] for row in rows({"kept": kept[4:16]}, 3)] == [[CR, 0], [CR, 4], [CR, 3], [CR, 0x20]]
    assert kept[16:] == [VMCALL, 0x80000033, 0x2020]


def test_masks_of_control_registers_count_for_all_machines_above(found: dict[str, Any]) -> None:
    """Of those that mask a bit the nearest hears of it; level 1's write, of WP too, leaves alone what level 2 masks.

    TS, which level 1 has set and keeps for itself, stays when level 2 has an exit of its own guest.
    """
    plain = 0x80000031
    with_ts = plain | 8
    kept = found["masks in a chain"]["kept"]
    level_1, level_3, level_2 = kept[:15], kept[15:17], kept[17:]
    assert level_3 == [plain | 1 << 16, with_ts | 1 << 16]
    clts, lmsw = 2 << 4, 3 << 4
    assert rows({"kept": level_2}, 3) == [
        [CR, 0, plain], [CR, lmsw | 0xB << 16, with_ts], [CR, 4, with_ts], [VMCALL, 0, with_ts | 4],
    ]  # fmt: skip
    assert rows({"kept": level_1}, 3) == [
        [CR, 0, with_ts | 1 << 16], [CR, clts, with_ts], [CR, lmsw | 1 << 16, with_ts], [CR, 4, with_ts],
        [VMCALL, 0, with_ts],
    ]  # fmt: skip


def test_what_a_level_below_takes_away_is_its_ept_violation(found: dict[str, Any]) -> None:
    """Of a VMCS, in use or not, and of lists of MSRs: once it gives that back the exit or instruction comes again."""
    kept = found["withdrawn in a chain"]["kept"]
    absent = 3 << 7  # and the address is of a linear one's page
    region, stores, loads, entry_loads = 0x131000, 0x139000, 0x13A000, 0x13B000
    assert kept[0] == VMCALL
    assert rows({"kept": kept[1:25]}, 3) == [
        *[[VIOLATION, absent | WRITE, region]] * 5,
        [VIOLATION, absent | WRITE, stores],
        [VIOLATION, absent | READ, entry_loads],
        [VIOLATION, absent | READ, loads],
    ]
    assert kept[25] == IO
    # level 2: its guest's exit, what it reads and wrote, an instruction's error, and the guest's last exit
    assert kept[26:] == [VMCALL, GUEST + 2, 5, 7, 12, VMCALL, GUEST + 15]


def test_a_guest_is_begun_anew_when_its_hypervisor_says_so(found: dict[str, Any]) -> None:
    """By what it has written, not by a state that merely differs."""
    level_3s, level_2s = [0x100 + VMXON, VMCALL], [0, VMCALL]
    assert found["begun anew in a chain"]["kept"] == [IO, *level_3s, IO, *level_2s]


def test_what_a_machine_masks_stays_what_it_is(found: dict[str, Any]) -> None:
    """Level 1's TS, WP, TSD and DE, when level 2 enters a guest with those that it sees, and comes back from it."""
    kept = found["true bits in a chain"]["kept"]
    seen, seen_4 = 0x80010031, 0x2028
    level_1, level_3, level_2, levels_told, last = kept[:6], kept[6:9], kept[9:11], kept[11:17], kept[17:]
    assert (level_2, level_3) == ([seen, seen_4], [seen, seen_4, seen_4 | 4])
    assert rows({"kept": levels_told}, 3) == [[VMCALL, seen, seen_4], [VMCALL, seen, seen_4 | 4]]
    assert last == [seen, seen_4 | 4], "of level 2 itself, which level 1 shows the same"
    assert rows({"kept": level_1}, 3) == [[CR, 0x80000039, 0x2024], [VMCALL, 0x80000039, 0x2024]]


def test_windows_open_when_the_guest_can_take_what_comes(found: dict[str, Any]) -> None:
    assert found["windows"]["kept"] == [
        *(WINDOW, GUEST, WINDOW, GUEST + 2),
        *(NMI_WINDOW, GUEST, 0, NMI_WINDOW, GUEST + 0x33, 0),
        *(NMI_WINDOW, GUEST, 0, VMCALL, GUEST + 3, 8),
    ]


@pytest.mark.skipif(kvm_intel_nests(), reason="kvm_intel nests on this machine: it needs no Bochs")
def test_bochs_unmasks_nmis_at_iret_alone(found: dict[str, Any]) -> None:
    """Of plain guests, without anything of ours. Fails once its entries do, too: then unmask_nmis is not needed."""
    assert found["NMI masks"]["kept"] == [0, 1, 1, 1, 0, 0]


def test_the_preemption_timer_counts_down(found: dict[str, Any]) -> None:
    reason, rip, second, left, third, none = found["timer"]["kept"]
    assert (reason, rip, second, third, none) == (TIMER, GUEST, VMCALL, TIMER, 0)
    assert 0 < left < 1 << 20


def test_the_timer_that_ends_first_counts(found: dict[str, Any]) -> None:
    """A Python level's below, or the machine's own; the other one goes on."""
    case = found["two timers, its own first"]
    assert (case["seen"], case["kept"]) == ([[2]], [TIMER, 0, 0, VMCALL])
    case = found["two timers, level 1's first"]
    reason, left, told, second = case["kept"]
    assert (case["seen"], reason, told, second) == ([[2]], VMCALL, 1, VMCALL)
    assert 0 < left < 1 << 28


def test_the_clock_has_the_offset(found: dict[str, Any]) -> None:
    before, inside, reason, after, stopped = found["clock"]["kept"]
    assert before < inside - (1 << 50) < after
    assert (reason, stopped) == (VMCALL, 16)


def test_each_instruction_has_its_control(found: dict[str, Any]) -> None:
    case = found["controls of instructions"]
    reasons = {7: 12, 9: 14, 10: 36, 11: 15, 23: 29, 29: 39, 30: 40, 16: 28, 20: 28, 34: 46, 38: 54, 43: 57}
    assert case["bits"] == list(reasons)
    assert case["kept"][:24] == [word for reason in reasons.values() for word in (reason, VMCALL)]
    assert case["kept"][30] == VMCALL
    assert case["kept"][32] == 6  # RDTSCP is undefined


def test_an_interrupt_from_below_is_an_exit_and_stays_pending(found: dict[str, Any]) -> None:
    """A Python hypervisor at level 1 asks for it while level 3 runs: level 2 exits, and takes it after STI."""
    case = found["interrupt"]
    assert case["seen"] == [[2]]
    assert case["kept"] == [INTERRUPT, 0, GUEST + 0x15, 0, 0x99, 0x99, VMCALL]


def test_an_interrupt_that_the_exit_acknowledges_is_told(found: dict[str, Any]) -> None:
    case = found["acknowledged"]
    assert case["kept"] == [INTERRUPT, 1 << 31 | 0x55, GUEST + 0x15, 0, 0, 0, VMCALL]


def test_an_nmi_from_below_is_an_exit(found: dict[str, Any]) -> None:
    case = found["nmi"]
    assert case["kept"] == [EXCEPTION, 1 << 31 | 2 << 8 | 2, GUEST + 0x15, 0, 0, 0, VMCALL]


def test_random_fields_end_as_the_manual_says(found: dict[str, Any]) -> None:
    """Each of 400 VMCSs with three other fields ends by an error number, a failed entry, or an exit."""
    case = found["random"]
    assert (case["status"], case["kept"][0]) == (0, 400)
    verdicts = rows({"kept": case["kept"][0x200:]}, 2)
    assert {flags & FLAGS for flags, _ in verdicts} == {0, VALID}
    failed = sum(reason in (FAILED | 33, FAILED | 34) for flags, reason in verdicts if not flags)
    refused = sum(flags & FLAGS == VALID for flags, _ in verdicts)
    assert failed > 40
    assert refused > 40
    assert failed + refused < 400
