"""The svm engine on kvm_amd: each instruction with its exact exit, its effect, and the switcher out of reach."""

from typing import Any

import pytest
from lab_cases import run_cases
from switcher_failure import assert_failed

from nestvmm.lab import Lab

pytestmark = pytest.mark.svm_lab

ANSWER = 0x7777
READ, WRITE, EXECUTE = 0, 1, 2
EFER = 0x500

# Exit code of AMD APM vol. 2, appendix C; qualifier; where the instruction is; its length.
REASONS = {
    "cpuid": (0x72, 0x40000123, 20, 2),
    "rdtsc": (0x6E, 0, 10, 2),
    "rdpmc": (0x6F, 3, 20, 2),
    "hlt": (0x78, 0, 10, 1),
    "pause": (0x77, 0, 10, 2),
    "wbinvd": (0x89, 0, 10, 2),
    "monitor": (0x8A, 0, 40, 3),
    "mwait": (0x8B, 0, 30, 3),
    "hypercall": (0x81, 0x55, 20, 3),
    "invlpg": (0x79, 0, 20, 3),
    "pushf": (0x70, 0, 10, 1),
    "popf": (0x71, 0, 12, 1),
    "iret": (0x74, 0, 10, 2),
    "int 0x55": (0x75, 0x55, 10, 2),
    "stgi": (0x84, 0x84, 10, 3),
    "clgi": (0x85, 0x85, 10, 3),
    "vmrun": (0x80, 0x80, 20, 3),
    "vmload": (0x82, 0x82, 20, 3),
    "vmsave": (0x83, 0x83, 20, 3),
    "skinit": (0x86, 0x86, 20, 3),
    "invlpga": (0x7A, 0x7A, 30, 3),
}
# The same for what moves data by its nature, and says whether it reads or writes; SMSW, LMSW and CLTS show no operand.
DIRECTED = {
    "smsw": (0x00, 0, READ, 10, 3),
    "lmsw": (0x10, 0, WRITE, 20, 3),
    "clts": (0x10, 0, WRITE, 10, 2),
    "sgdt": (0x67, 0, READ, 20, 3),
    "sidt": (0x66, 1, READ, 20, 3),
    "sldt": (0x68, 2, READ, 20, 3),
    "str": (0x69, 3, READ, 20, 3),
    "lgdt": (0x6B, 0, WRITE, 20, 3),
    "lidt": (0x6A, 1, WRITE, 20, 3),
    "lldt": (0x6C, 2, WRITE, 20, 3),
    "ltr": (0x6D, 3, WRITE, 20, 3),
}
# To RBX, where the answer goes.
READS = {
    "cr0 read": (0x00, 0, 3),
    "cr2 read": (0x02, 2, 3),
    "cr3 read": (0x03, 3, 3),
    "cr4 read": (0x04, 4, 3),
    "cr8 read": (0x08, 8, 4),
    "dr0 read": (0x20, 0, 3),
    "dr7 read": (0x27, 7, 3),
}
# From RBX.
WRITES = {
    "cr0 write": (0x10, 0, 3, 0x80000033),
    "cr2 write": (0x12, 2, 3, 0x1234),
    "cr3 write": (0x13, 3, 3, 0x5000),
    "cr4 write": (0x14, 4, 3, 0xA0),
    "cr8 write": (0x18, 8, 4, 5),
    "dr0 write": (0x30, 0, 3, 0x1234),
    "dr7 write": (0x37, 7, 3, 0x400),
}
# What the lab's processor does not trap, with what it looks at instead (QEMU, target/i386/tcg); RAX afterwards is not
# the level's. The last two it does not know at all: #UD.
NOT_TRAPPED = {
    "rdtscp": "RDTSC's intercept, in helper_rdtscp",
    "invd": "WBINVD's, in disas_insn",
    "xsetbv": "none, in helper_xsetbv",
}
UNKNOWN = ("invpcid", "icebp", "rdpru")
# RAX and RBX after the processor did what level 1 declined; None: whatever it is.
DECLINED = {
    "rdtsc": None,
    "rdpmc": (0, 0),
    "pause": (0, 0),
    "wbinvd": (0, 0),
    "monitor": (0x100000, 0),
    "invlpg": (0x120000, 0),
    "cr0 read": (0, 0x80000031),
    "cr4 write": (0, 0xA0),
    "cr8 write": (0, 5),
    "smsw": (0, 0x80000031),
    "clts": (0, 0),
    "dr7 read": (0, 0x400),
    "dr0 write": (0, 0x1234),
    "sgdt": (0x0, 0),
    "lgdt": (0x0, 0),
    "rdmsr": (0, 0),
    "wrmsr": (0x11112222, 0),
}


@pytest.fixture(scope="module")
def found(svm_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(svm_lab, "engines/svm_cases.py", "instructions")


def seen(found: dict[str, Any], name: str, exits: int = 2) -> dict[str, Any]:
    """The one event that level 1 saw; the guest lived, and the debug exit is the only other exit at any height."""
    case = found[name]
    assert (case["status"], case["message"], case["exits"]) == (0, "", exits)
    (event,) = case["seen"][0]
    assert len(event["instruction"]) == 2 * event["length"]
    return {key: value for key, value in event.items() if key != "instruction"}


@pytest.mark.parametrize("name", REASONS)
def test_the_designated_level_sees_the_exit_and_the_guest_its_answer(name: str, found: dict[str, Any]) -> None:
    raw, qualifier, rip, length = REASONS[name]
    event = seen(found, f"reason {name}")
    expected = {"raw": raw, "qualifier": qualifier, "rip": rip, "length": length, "direction": EXECUTE}
    assert event == {**expected, "size": 0, "value": 0, "info": 0}
    assert found[f"reason {name}"]["kept"] == [ANSWER, 0]


@pytest.mark.parametrize("name", DIRECTED)
def test_an_access_to_a_register_tells_its_direction(name: str, found: dict[str, Any]) -> None:
    raw, qualifier, direction, rip, length = DIRECTED[name]
    event = seen(found, f"reason {name}")
    expected = {"raw": raw, "qualifier": qualifier, "rip": rip, "length": length, "direction": direction}
    assert event == {**expected, "size": 0, "value": 0, "info": 0}
    assert found[f"reason {name}"]["kept"][0] == ANSWER


@pytest.mark.parametrize("name", READS)
def test_a_register_read_gives_the_levels_answer(name: str, found: dict[str, Any]) -> None:
    raw, qualifier, length = READS[name]
    event = seen(found, f"reason {name}")
    expected = {"raw": raw, "qualifier": qualifier, "rip": 10, "length": length, "direction": READ}
    assert event == {**expected, "size": 8, "value": 0, "info": 0}
    assert found[f"reason {name}"]["kept"] == [0, ANSWER]


@pytest.mark.parametrize("name", WRITES)
def test_a_register_write_shows_the_value(name: str, found: dict[str, Any]) -> None:
    raw, qualifier, length, value = WRITES[name]
    event = seen(found, f"reason {name}")
    expected = {"raw": raw, "qualifier": qualifier, "rip": 20, "length": length, "direction": WRITE}
    assert event == {**expected, "size": 8, "value": value, "info": 0}
    assert found[f"reason {name}"]["kept"] == [0, value]


@pytest.mark.parametrize(
    ("name", "index", "direction", "rip", "value", "kept"),
    [
        ("rdmsr", 0x174, READ, 30, 0, ANSWER),
        ("wrmsr", 0x174, WRITE, 40, 0x3333444411112222, 0x11112222),
        ("rdmsr high", 0xC0000102, READ, 30, 0, ANSWER),
        ("rdmsr unmapped", 0x4000000, READ, 30, 0, ANSWER),  # which the bitmap has no bits for
    ],
)
def test_msrs_by_bitmap(
    name: str, index: int, direction: int, rip: int, value: int, kept: int, found: dict[str, Any]
) -> None:
    expected = {"raw": 0x7C, "qualifier": index, "rip": rip, "length": 2, "direction": direction, "size": 8}
    assert seen(found, f"reason {name}") == {**expected, "value": value, "info": direction}
    assert found[f"reason {name}"]["kept"] == [kept, 0]


@pytest.mark.parametrize("name", NOT_TRAPPED)
def test_the_labs_processor_does_not_trap(name: str, found: dict[str, Any]) -> None:
    """Fails once it does: then the reason moves to REASONS."""
    case = found[f"reason {name}"]
    assert (case["status"], case["seen"][0], case["exits"]) == (0, [], 1)
    assert case["kept"][0] != ANSWER


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_labs_processor_does_not_know(name: str, found: dict[str, Any]) -> None:
    """#UD, which ends in a shutdown there, for want of a handler."""
    case = found[f"reason {name}"]
    assert (case["status"], case["seen"][0], case["exits"]) == (255, [], 1)


@pytest.mark.parametrize("name", DECLINED)
def test_a_declined_instruction_executes(name: str, found: dict[str, Any]) -> None:
    seen(found, f"declined {name}")
    if DECLINED[name] is not None:
        assert tuple(found[f"declined {name}"]["kept"]) == DECLINED[name]
    else:
        assert found[f"declined {name}"]["kept"][0] not in (0, ANSWER)


@pytest.mark.parametrize("name", ["hypercall", "stgi", "vmrun", "invlpga"])
def test_what_nobody_does_is_undefined(name: str, found: dict[str, Any]) -> None:
    """Nobody claims it, or level 1 sees it and declines."""
    for how, events in (("undefined", []), ("refused", [REASONS[name][0]])):
        case = found[f"{how} {name}"]
        assert (case["status"], case["kept"]) == (0, [6])
        assert [event["raw"] for seen in case["seen"] for event in seen] == events


def test_rsm_is_undefined_outside_smm(found: dict[str, Any]) -> None:
    """Which is where level n always is: no level can claim it."""
    assert (found["undefined rsm"]["status"], found["undefined rsm"]["kept"]) == (0, [6])


def test_a_handler_makes_the_guest_fault_at_the_instruction(found: dict[str, Any]) -> None:
    assert (found["fault"]["status"], found["fault"]["kept"]) == (0, [0x5A8, 9])


def test_a_handler_has_an_instruction_again(found: dict[str, Any]) -> None:
    case = found["retry"]
    assert (case["status"], case["exits"], case["kept"][0]) == (0, 3, ANSWER)
    assert [event["rip"] for event in case["seen"][0]] == [10, 10]


def test_a_handled_write_does_not_happen(found: dict[str, Any]) -> None:
    assert (found["written"]["status"], found["written"]["kept"]) == (0, [0x20, 0x20])


def test_only_what_is_claimed_exits(found: dict[str, Any]) -> None:
    assert [event["raw"] for event in found["one register"]["seen"][0]] == [0x13]
    assert (found["one register"]["status"], found["one register"]["exits"]) == (0, 2)
    assert [event["value"] for event in found["one msr"]["seen"][0]] == [0x10]
    assert (found["one msr"]["exits"], found["one msr"]["kept"]) == (2, [0x10, 0x20])


def test_a_handler_sees_and_changes_system_registers(found: dict[str, Any]) -> None:
    case = found["peek"]
    assert case["seen"][0] == [{"cr0": 0x80000031, "efer": EFER, "cs": 0x10, "long": 1}]
    assert case["kept"][0] == 0x20 | 1 << 7


def test_a_handler_changes_system_registers_and_faults_on_an_exit_that_was_not_by_the_switcher(
    found: dict[str, Any],
) -> None:
    assert (found["recall"]["status"], found["recall"]["kept"]) == (0, [0x5A, 0x20 | 1 << 7, 0x5A8])


def test_claims_change_while_the_guest_runs(found: dict[str, Any]) -> None:
    case = found["reclaim"]
    assert (case["status"], case["seen"][1]) == (0, ["rdtsc"])
    assert case["kept"][1] == ANSWER
    assert ANSWER not in (case["kept"][0], case["kept"][2])
    assert case["exits"] == 4  # two hypercalls, one RDTSC of three, and the debug exit
    case = found["reclaim msr"]
    assert (case["status"], case["seen"][0], case["kept"], case["exits"]) == (0, ["rdmsr"], [0x10, ANSWER, 0x10], 4)


def test_claims_of_memory_cannot_change(found: dict[str, Any]) -> None:
    assert found["reclaim memory"]["error"].startswith("HypervisorError: a hypervisor changed its claims of mmio")


def test_a_handler_reads_and_writes_msrs(found: dict[str, Any]) -> None:
    case = found["msrs"]
    assert case["seen"][0] == [0x1234, True, None, False, EFER, True]
    assert (case["status"], case["kept"]) == (0, [0x4321, EFER | 1])


def test_the_guests_efer_has_no_svm(found: dict[str, Any]) -> None:
    assert (found["efer"]["status"], found["efer"]["kept"]) == (0, [EFER, 0xD00, 13])


@pytest.mark.parametrize("name", ["vm_cr read", "hsave read", "hsave write", "efer reserved", "efer lme"])
def test_msrs_that_are_not_the_guests(name: str, found: dict[str, Any]) -> None:
    assert (found[name]["status"], found[name]["kept"]) == (0, [13])


def test_cpuid_shows_what_is_exposed_and_not_what_the_switcher_needs(found: dict[str, Any]) -> None:
    assert found["cpuid 0"]["kept"] == found["cpuid 0 declined"]["kept"]
    assert found["cpuid 0"]["exits"] == 2
    assert not found["cpuid extended 1"]["kept"][2] & 1 << 2
    assert found["cpuid svm"]["kept"] == found["cpuid beyond"]["kept"] == [0] * 4
    assert found["cpuid 1"]["kept"][2] ^ found["cpuid 1 osxsave"]["kept"][2] == 1 << 27
    assert found["cpuid d"]["kept"][1] == 0x240
    assert found["cpuid b"]["kept"][2] == 7


def test_the_switcher_is_out_of_its_guests_reach(found: dict[str, Any]) -> None:
    case = found["switcher memory"]
    assert (case["status"], case["message"], case["exits"]) == (0, "", 4)
    assert case["kept"] == [(1 << 64) - 1] * 2


def test_a_fault_of_the_switchers_own_ends_the_run_with_one_error(found: dict[str, Any]) -> None:
    assert_failed(found["switcher failure"])
