"""The vmx engine on kvm_intel: each instruction with its exact exit and its effect, and the switcher out of reach."""

from typing import Any

import pytest
from lab_cases import run_cases
from switcher_failure import assert_failed

from nestvmm.lab import Lab

pytestmark = pytest.mark.vmx_lab

ANSWER = 0x7777
READ, WRITE, EXECUTE = 0, 1, 2
EFER = 0x500

# Basic exit reason of Intel SDM vol. 3, appendix C; qualifier; where the instruction is; its length.
REASONS = {
    "cpuid": (10, 0x40000123, 20, 2),
    "rdtsc": (16, 0, 10, 2),
    "rdtscp": (51, 0, 10, 3),
    "rdpmc": (15, 3, 20, 2),
    "hlt": (12, 0, 10, 1),
    "pause": (40, 0, 10, 2),
    "invd": (13, 0, 10, 2),
    "wbinvd": (54, 0, 10, 2),
    "monitor": (39, 0, 40, 3),
    "mwait": (36, 0, 30, 3),
    "xsetbv": (55, 0, 51, 3),
    "vmcall": (18, 0x55, 20, 3),
    "invlpg": (14, 0, 20, 3),
    "invpcid": (58, 0, 30, 5),
    "rdrand": (57, 0, 10, 4),
    "vmclear": (19, 19, 20, 4),
    "vmlaunch": (20, 20, 10, 3),
    "vmptrld": (21, 21, 20, 3),
    "vmptrst": (22, 22, 20, 3),
    "vmread": (23, 23, 10, 3),
    "vmresume": (24, 24, 10, 3),
    "vmwrite": (25, 25, 10, 3),
    "vmxoff": (26, 26, 10, 3),
    "vmxon": (27, 27, 20, 4),
    "invept": (50, 50, 30, 5),
    "invvpid": (53, 53, 30, 5),
}
# What else the exit tells: INVLPG's linear address, and which operands RDRAND and INVPCID have (SDM vol. 3, 28.2.5).
INFORMATION = {"invlpg": 0x120000, "rdrand": 0x1418, "invpcid": 63013120}
# Likewise, and whether it reads or writes.
DIRECTED = {
    "lmsw": (28, 0, WRITE, 20, 3),
    "sgdt": (46, 0, READ, 20, 3),
    "sidt": (46, 1, READ, 20, 3),
    "sldt": (47, 2, READ, 20, 3),
    "str": (47, 3, READ, 20, 3),
    "lgdt": (46, 0, WRITE, 20, 3),
    "lidt": (46, 1, WRITE, 20, 3),
    "lldt": (47, 2, WRITE, 20, 3),
    "ltr": (47, 3, WRITE, 20, 3),
}
# To RBX, where the answer goes: reason, qualifier, exit qualification, length.
READS = {
    "cr3 read": (28, 3, 0x313, 3),
    "cr8 read": (28, 8, 0x318, 4),
    "dr0 read": (29, 0, 0x310, 3),
    "dr7 read": (29, 7, 0x317, 3),
}
# From RBX: also the value.
WRITES = {
    "cr0 write": (28, 0, 0x300, 3, 0x80000033),
    "cr3 write": (28, 3, 0x303, 3, 0x5000),
    "cr4 write": (28, 4, 0x304, 3, 0xA0),
    "cr8 write": (28, 8, 0x308, 4, 5),
    "dr0 write": (29, 0, 0x300, 3, 0x1234),
    "dr7 write": (29, 7, 0x307, 3, 0x400),
}
MSR_READS = {"rdmsr": 0x174, "rdmsr high": 0xC0000102, "rdmsr unmapped": 0x4000000}
# No exit for reading CR0 or CR4, none for CR2 (Intel SDM vol. 3, 26.1.3); CLTS exits only if the shadow has TS set.
NO_EXIT = ("cr0 read", "cr2 read", "cr4 read", "smsw", "cr2 write", "clts")
# Declined, they happen: what the guest then has in RAX and RBX.
DECLINED = {
    "monitor": [0x100000, 0],
    "mwait": [0, 0],
    "invd": [0, 0],
    "xsetbv": [1, 0],
    "invpcid": [2, 0],
    "cr3 read": [0, 0x2000],
    "cr0 write": [0, 0x80000033],
    "dr7 write": [0, 0x400],
    "str": [0, 0],
    "pause": [0, 0],
    "wbinvd": [0, 0],
    "invlpg": [0x120000, 0],
    "cr4 write": [0, 0xA0],
    "cr8 write": [0, 5],
    "dr7 read": [0, 0x400],
    "dr0 write": [0, 0x1234],
    "sgdt": [0, 0],
    "lgdt": [0, 0],
    "rdmsr": [0, 0],
    "wrmsr": [0x11112222, 0],
}


@pytest.fixture(scope="module")
def found(vmx_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(vmx_lab, "engines/vmx_cases.py", "instructions")


def seen(case: dict[str, Any], *names: str) -> list[tuple[int, ...]]:
    """What level 1 saw, after the run has ended well by one hardware exit and the debug exit."""
    assert (case["status"], case["message"], case["exits"]) == (0, "", 2)
    return [tuple(event[name] for name in names) for event in case["seen"][0]]


@pytest.mark.parametrize("name", REASONS)
def test_an_instruction(name: str, found: dict[str, Any]) -> None:
    raw, qualifier, rip, length = REASONS[name]
    case = found[f"reason {name}"]
    assert seen(case, "raw", "qualifier", "direction", "rip", "length") == [(raw, qualifier, EXECUTE, rip, length)]
    assert case["kept"][0] == ANSWER
    assert case["seen"][0][0]["info"] == INFORMATION.get(name, 0)


@pytest.mark.parametrize("name", DIRECTED)
def test_an_instruction_with_a_direction(name: str, found: dict[str, Any]) -> None:
    case = found[f"reason {name}"]
    assert seen(case, "raw", "qualifier", "direction", "rip", "length") == [DIRECTED[name]]
    assert case["kept"][0] == ANSWER


@pytest.mark.parametrize("name", READS)
def test_a_register_read_is_answered(name: str, found: dict[str, Any]) -> None:
    raw, qualifier, info, length = READS[name]
    case = found[f"reason {name}"]
    expected = [(raw, qualifier, READ, info, 10, length, 8)]
    assert seen(case, "raw", "qualifier", "direction", "info", "rip", "length", "size") == expected
    assert case["kept"] == [0, ANSWER]


@pytest.mark.parametrize("name", WRITES)
def test_a_register_write_tells_its_value(name: str, found: dict[str, Any]) -> None:
    raw, qualifier, info, length, value = WRITES[name]
    case = found[f"reason {name}"]
    expected = [(raw, qualifier, WRITE, info, 20, length, value)]
    assert seen(case, "raw", "qualifier", "direction", "info", "rip", "length", "value") == expected


@pytest.mark.parametrize("name", MSR_READS)
def test_rdmsr_by_the_bitmap(name: str, found: dict[str, Any]) -> None:
    case = found[f"reason {name}"]
    assert seen(case, "raw", "qualifier", "direction", "rip", "length") == [(31, MSR_READS[name], READ, 30, 2)]
    assert case["kept"][0] == ANSWER


def test_wrmsr_by_the_bitmap(found: dict[str, Any]) -> None:
    expected = [(32, 0x174, WRITE, 40, 2, 0x3333444411112222)]
    assert seen(found["reason wrmsr"], "raw", "qualifier", "direction", "rip", "length", "value") == expected


@pytest.mark.parametrize("name", NO_EXIT)
def test_vmx_has_no_exit_for(name: str, found: dict[str, Any]) -> None:
    case = found[f"reason {name}"]
    assert (case["status"], case["seen"][0], case["exits"]) == (0, [], 1)


@pytest.mark.parametrize("name", DECLINED)
def test_what_is_declined_happens(name: str, found: dict[str, Any]) -> None:
    case = found[f"declined {name}"]
    assert len(seen(case, "raw")) == 1
    assert case["kept"] == DECLINED[name]


@pytest.mark.parametrize(("name", "raw", "where"), [("rdtsc", 16, 0), ("rdtscp", 51, 0), ("rdrand", 57, 1)])
def test_a_declined_instruction_gives_what_the_processor_gives(
    name: str, raw: int, where: int, found: dict[str, Any]
) -> None:
    case = found[f"declined {name}"]
    assert seen(case, "raw") == [(raw,)]
    assert case["kept"][where] not in (0, ANSWER)


def test_a_declined_instruction_may_fault(found: dict[str, Any]) -> None:
    """There is no such performance counter: #GP, which ends in a shutdown for want of a handler."""
    case = found["declined rdpmc"]
    assert (case["status"], case["message"], len(case["seen"][0])) == (255, "guest at L3 died: triple fault", 1)


@pytest.mark.parametrize("name", ["vmcall", "vmxon", "rsm", "umwait", "tpause"])
def test_what_nobody_claims_is_undefined(name: str, found: dict[str, Any]) -> None:
    assert (found[f"undefined {name}"]["status"], found[f"undefined {name}"]["kept"]) == (0, [6])


def test_a_handler_makes_the_guest_fault_at_the_instruction(found: dict[str, Any]) -> None:
    assert (found["fault"]["status"], found["fault"]["kept"]) == (0, [0x5A8, 9])


def test_a_handler_has_the_instruction_done_again(found: dict[str, Any]) -> None:
    assert (found["retry"]["exits"], found["retry"]["kept"][0], len(found["retry"]["seen"][0])) == (3, ANSWER, 2)


def test_a_handled_write_does_not_happen(found: dict[str, Any]) -> None:
    assert found["written"]["kept"] == [0x20, 0x20]


@pytest.mark.parametrize(("name", "raw", "qualifier"), [("one register", 28, 3), ("one msr", 32, 0x174)])
def test_only_what_is_claimed_exits(name: str, raw: int, qualifier: int, found: dict[str, Any]) -> None:
    assert seen(found[name], "raw", "qualifier", "direction") == [(raw, qualifier, WRITE)]


def test_the_switcher_is_out_of_its_guests_reach(found: dict[str, Any]) -> None:
    """It reads as ones, and what is written there is lost."""
    assert (found["switcher memory"]["status"], found["switcher memory"]["kept"]) == (0, [(1 << 64) - 1] * 2)


def test_a_fault_of_the_switchers_own_ends_the_run_with_one_error(found: dict[str, Any]) -> None:
    assert_failed(found["switcher failure"])


def test_bits_that_vmx_fixes_look_as_the_guest_left_them(found: dict[str, Any]) -> None:
    """CR0.NE is set under it, CR4.VMXE too; setting the latter is #GP, as the guest has no VMX."""
    case = found["fixed bits"]
    assert (case["status"], case["exits"], case["kept"]) == (0, 1, [0x80000011, 0x80000031, 0, 0x20])


def test_a_level_sees_every_change_of_cr0(found: dict[str, Any]) -> None:
    """NE cleared, NE and TS set, CLTS: declined, each has its effect."""
    case = found["cr0 writes"]
    fields = ("raw", "qualifier", "value", "size", "length")
    assert [tuple(event[name] for name in fields) for event in case["seen"][0]] == [
        (28, 0, 0x80000011, 8, 3),
        (28, 0, 0x80000039, 8, 3),
        (28, 0, 0, 0, 2),
    ]
    assert (case["status"], case["kept"]) == (0, [0x80000011, 0x80000039, 0x80000031])


def test_the_preemption_timer_comes_once(found: dict[str, Any]) -> None:
    case = found["timer"]
    assert (case["status"], case["exits"], case["seen"][0], case["kept"]) == (0, 3, [[52, 0, 0]], [1])


def test_a_handler_sees_and_changes_system_registers(found: dict[str, Any]) -> None:
    case = found["peek"]
    assert case["seen"][0] == [{"cr0": 0x80000031, "efer": EFER, "cs": 0x10, "long": 1}]
    assert case["kept"][0] == 0x20 | 1 << 7


def test_a_handler_changes_system_registers_on_an_exit_that_kvm_served_directly(found: dict[str, Any]) -> None:
    assert (found["recall"]["status"], found["recall"]["kept"]) == (0, [0x5A, 0x20 | 1 << 7, 0x5A8])


def test_claims_change_while_the_guest_runs(found: dict[str, Any]) -> None:
    case = found["reclaim"]
    assert (case["status"], case["seen"][1], case["exits"]) == (0, ["rdtsc"], 4)
    assert case["kept"][1] == ANSWER
    assert ANSWER not in (case["kept"][0], case["kept"][2])
    case = found["reclaim msr"]
    assert (case["status"], case["seen"][0], case["kept"], case["exits"]) == (0, ["rdmsr"], [0x10, ANSWER, 0x10], 4)


def test_a_handler_reads_and_writes_msrs(found: dict[str, Any]) -> None:
    case = found["msrs"]
    assert case["seen"][0] == [0x1234, True, None, False, EFER, True]
    assert (case["status"], case["kept"]) == (0, [0x4321, EFER | 1])


def test_efer_is_the_guests(found: dict[str, Any]) -> None:
    assert (found["efer"]["status"], found["efer"]["kept"]) == (0, [EFER, 0xD00, 13])
    for name in ("efer reserved", "efer lme"):
        assert (found[name]["status"], found[name]["kept"]) == (0, [13])


def test_cpuid_shows_what_is_exposed_and_not_what_the_switcher_needs(found: dict[str, Any]) -> None:
    assert found["cpuid 0"]["kept"] == found["cpuid 0 declined"]["kept"]
    assert found["cpuid 0"]["exits"] == 2
    assert not found["cpuid 1"]["kept"][2] & 1 << 5
    # Intel's processors give the last basic leaf for what is beyond
    assert found["cpuid svm"]["kept"] == found["cpuid beyond"]["kept"] == found["cpuid d"]["kept"]
    assert found["cpuid 1"]["kept"][2] ^ found["cpuid 1 osxsave"]["kept"][2] == 1 << 27
    assert (found["cpuid d"]["kept"][1], found["cpuid d all"]["kept"][1]) == (0x240, 0x340)
    assert found["cpuid b"]["kept"][2] == 7


def test_vmx_msrs_are_not_there(found: dict[str, Any]) -> None:
    assert (found["vmx msr"]["status"], found["vmx msr"]["kept"]) == (0, [13])


# What the lab's KVM does not offer its guests in Bochs: there is no monitor trap flag, and the emulated processor has
# neither RDSEED nor SGX. Nor has it UMWAIT and TPAUSE, which RDTSC's control stops: they are #UD.
REFUSED = {"monitor trap": "primary bit 27", "rdseed": "secondary bit 16", "encls": "secondary bit 15"}
UNKNOWN = ("umwait", "tpause")


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_labs_processor_does_not_know(name: str, found: dict[str, Any]) -> None:
    """#UD, which ends in a shutdown for want of a handler. Fails once it does."""
    case = found[f"reason {name}"]
    assert (case["status"], case["message"], case["seen"][0]) == (255, "guest at L3 died: triple fault", [])


@pytest.mark.parametrize(("name", "bit"), REFUSED.items())
def test_what_this_kvm_cannot_trap_is_refused_by_name(name: str, bit: str, found: dict[str, Any]) -> None:
    reason = name.replace(" ", "-")
    expected = f"HostError: engine vmx: this host's KVM cannot trap {reason}: its VMX lacks {bit}"
    assert found[name] == {"error": expected}
