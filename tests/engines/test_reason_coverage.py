"""Every exit that levels may handle is seen exactly in a lab, or the lab's processor cannot make it: then it says why.

The tables that the tests in the labs go by are read here, so that a new row needs a test or a reason.
"""

from __future__ import annotations

import pytest
import test_svm
import test_switched_events as events
import test_vmx

from nestvmm.x86.exit_row import Handlers
from nestvmm.x86.svm_exits import SVM_EXITS
from nestvmm.x86.vmx_exits import VMX_EXITS

_EXCEPTION = 0x40
_REGISTERS = {0x20 + number for number in range(8)} | {0x30 + number for number in range(8)}


def codes(*tables: dict[str, tuple[int, ...]]) -> set[int]:
    """Exit codes, the first column of tests' tables."""
    return {row[0] for table in tables for row in table.values()}


SEEN = {
    "svm": codes(test_svm.REASONS, test_svm.DIRECTED, test_svm.READS, test_svm.WRITES)
    | set(events.RAW["svm"].values())
    | {_EXCEPTION + vector for name, (vector, *_) in events.EXCEPTIONS.items() if name not in events.NOT_TRAPPED["svm"]}
    | {_EXCEPTION + 1, 0x7C, 0x400},  # test_a_level_sees_the_guests_traps, test_msrs_by_bitmap, test_nested_paging
    "vmx": codes(test_vmx.REASONS, test_vmx.DIRECTED, test_vmx.READS, test_vmx.WRITES)
    | set(events.RAW["vmx"].values())
    | {9, 31, 32, 48, 49, 52},  # test_modes, test_vmx (by name), test_nested_paging
}
# Not in the lab, and why: where a name follows, that test fails once the lab has it.
LACKING = {
    "svm": {
        **dict.fromkeys(_REGISTERS - {0x20, 0x27, 0x30, 0x37}, "its number is all that differs from DR0's or DR7's"),
        0x76: "test_svm.test_the_labs_processor_does_not_trap[invd]",
        0x7D: "test_modes.test_the_new_task_runs",
        0x87: "test_svm.test_the_labs_processor_does_not_trap[rdtscp]",
        0x88: "test_svm.test_the_labs_processor_does_not_know[icebp]",
        0x8D: "test_svm.test_the_labs_processor_does_not_trap[xsetbv]",
        0x8E: "test_svm.test_the_labs_processor_does_not_know[rdpru]",
        0xA2: "test_svm.test_the_labs_processor_does_not_know[invpcid]",
        **{
            _EXCEPTION + events.EXCEPTIONS[name][0]: f"test_switched_events.NOT_TRAPPED[{name}]: {why}"
            for name, (_, why) in events.NOT_TRAPPED["svm"].items()
        },
        _EXCEPTION + 9: "no processor since the 486 raises it",
        _EXCEPTION + 18: "a machine check is the host's",
        _EXCEPTION + 20: "VMX's #VE",
        _EXCEPTION + 21: "QEMU has no shadow stacks",
        _EXCEPTION + 28: "SEV-SNP's #HV",
        _EXCEPTION + 29: "SEV-ES's #VC",
        _EXCEPTION + 30: "#SX comes of INITs that the host redirects",
        **{_EXCEPTION + vector: "reserved" for vector in (15, *range(22, 28), 31)},
    },
    "vmx": {
        37: "test_vmx.REFUSED[monitor trap]",
        60: "test_vmx.REFUSED[encls]",
        61: "test_vmx.REFUSED[rdseed]",
        67: "test_vmx.UNKNOWN[umwait]",
        68: "test_vmx.UNKNOWN[tpause]",
        **dict.fromkeys((84, 85), "of processors after the lab's Haswell: CPUID 7.1 ECX bit 5"),
    },
}


@pytest.mark.parametrize(("vendor", "table"), [("svm", SVM_EXITS), ("vmx", VMX_EXITS)])
def test_every_exit_that_levels_may_handle_has_a_test_or_a_reason(vendor: str, table: dict[int, object]) -> None:
    levels = {code for code, row in table.items() if row.handlers is Handlers.LEVELS}  # type: ignore[attr-defined]
    assert levels - SEEN[vendor] == set(LACKING[vendor])
    assert SEEN[vendor] <= levels


def test_exceptions_by_vmx_are_one_exit() -> None:
    """So of these the vectors count: those that the lab does not trap are in NOT_TRAPPED."""
    assert set(events.NOT_TRAPPED["vmx"]) <= set(events.EXCEPTIONS)
