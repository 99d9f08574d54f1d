"""What L0 does with the events that no level above claims."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_engine import Answer, Exit, loads, reads, reads_msr, stores, writes, writes_msr
from scripted import Run, scripted

from nestvmm.hypervisors import ExitReason, Result
from nestvmm.nesting import Account, Clock, RunResult

IO, MMIO = ExitReason.IO, ExitReason.MMIO
ONES = 0xFFFFFFFFFFFFFFFF


def test_unclaimed_ignored_is_counted_by_port_and_direction(make: Callable[..., Run]) -> None:
    run = make()
    assert (
        run.go(reads(0x61F0), reads(0x61F0), writes(0x61F0, 1), loads(0xFE000000, 4), stores(0xFE000000, 1, 4)).status
        == 0
    )
    unclaimed = Account.of(run.tower, Clock(), 1).unclaimed
    assert {(one.reason, one.qualifier, one.direction): one.count for one in unclaimed} == {
        ("io", "0x61f0", "read"): 2,
        ("io", "0x61f0", "write"): 1,
        ("mmio", "0xfe000000", "read"): 1,
        ("mmio", "0xfe000000", "write"): 1,
    }
    assert run.engine.answers[3] == Answer(MMIO, 0xFFFFFFFF)


@pytest.mark.parametrize("declined", [False, True])
def test_unclaimed_as_an_error_ends_the_run(make: Callable[..., Run], declined: bool) -> None:
    run = make(scripted(), unclaimed="error")
    run.hypervisor(1).behave = lambda _, event: Result.declined()
    result = run.go(reads(0x5000 if declined else 0x61F0, 2))
    port = "0x5000" if declined else "0x61f0"
    assert result == RunResult(
        4, f"nobody claims <io read {port} size 2 count 1 value 0x0 from L1> (unclaimed = error)"
    )


def test_an_msr_that_nobody_takes_is_the_engines_or_a_fault(make: Callable[..., Run]) -> None:
    run = make(scripted("rdmsr", 0, 0xFFFF), scripted("wrmsr", 0, 0xFFFF))
    for level in (1, 2):
        run.hypervisor(level).behave = lambda _, event: Result.declined()
    run.engine.msrs = {0x10: 99}
    assert run.go(reads_msr(0x10), reads_msr(0x11), writes_msr(0x10, 5), writes_msr(0x11, 5)) == RunResult(0)
    assert [(answer.value, answer.fault) for answer in run.engine.answers] == [
        (99, False),
        (0, True),
        (0, False),
        (0, True),
    ]
    assert run.engine.msrs == {0x10: 5}


@pytest.mark.parametrize(
    ("exit_", "status", "message"),
    [
        (Exit(ExitReason.SHUTDOWN), 255, "guest at L2 died: triple fault\n   rax=0000000000000000"),
        (Exit(ExitReason.HLT), 255, "guest at L2 died: it halted with interrupts off, so nothing can wake it\n"),
        (Exit(ExitReason.INTERNAL_ERROR, 3), 255, "guest at L2 died: KVM internal error, suberror 3\n"),
        (
            Exit(ExitReason.ENTRY_FAILURE, info=0x21),
            255,
            "guest at L2 died: the processor refused its state: code 0x21",
        ),
        (Exit(ExitReason.MEMORY_FAULT, 0x1234), 255, "KVM could not reach the memory behind physical address 0x1234"),
        (Exit(ExitReason.MEMORY_FAULT, ONES), 255, "KVM could not reach the memory behind one of its addresses"),
        (Exit(ExitReason.SYSTEM_EVENT, 2), 0, "guest asked for system event 2"),
        (Exit(ExitReason.UNKNOWN, raw=77), 255, "guest at L2 died: exit 77 that nestvmm does not know"),
        (Exit(ExitReason.TASK_SWITCH, 0x68), 255, "guest at L2 died: it switched tasks to 0x68, by tables"),
        (Exit(ExitReason.EMULATION_FAILURE), 255, "KVM could not fetch its next instruction"),
        (
            Exit(ExitReason.EMULATION_FAILURE, instruction=b"\x0f\xb8"),
            255,
            "guest at L2 died: KVM cannot emulate its instruction 0f b8",
        ),
    ],
)
def test_what_no_level_claims_is_l0s(make: Callable[..., Run], exit_: Exit, status: int, message: str) -> None:
    result = make(scripted()).go(exit_)
    assert result.status == status
    assert message in result.message


@pytest.mark.parametrize("reason", [ExitReason.DEBUG, ExitReason.INTERRUPT_WINDOW, ExitReason.EOI])
def test_what_needs_no_answer_goes_on(make: Callable[..., Run], reason: ExitReason) -> None:
    run = make()
    assert run.go(Exit(reason, 1), reads(0xE9)) == RunResult(0)
    assert run.engine.answers == [Answer(reason), Answer(IO, 0xE9)]


@pytest.mark.parametrize("reason", [ExitReason.CPUID, ExitReason.PAUSE, ExitReason.RDTSC])
def test_a_reason_that_not_even_l0_handles_ends_the_run(make: Callable[..., Run], reason: ExitReason) -> None:
    result = make().go(Exit(reason, 1))
    assert result.status == 4
    assert result.message.startswith(f"nobody claims <{reason.label} read 0x1 ")
