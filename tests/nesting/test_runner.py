"""The runner above a made-up engine: what becomes of each answer that a handler can give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_engine import Answer, Exit, reads, reads_msr, writes, writes_msr
from guest_code import results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import Run, Scripted, scripted

from nestvmm.errors import HostError, HypervisorError
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result
from nestvmm.nesting import Account, Clock, LevelSpec, RunResult
from nestvmm.x86.event import Direction
from nestvmm.x86.scope import Scope

IO = ExitReason.IO
ONES = 0xFFFFFFFFFFFFFFFF


def test_a_read_gets_the_value_cut_to_its_size(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.read(0x1122334455667788)
    assert run.go(reads(0x5000), reads(0x5001, 2), reads(0x5002, 4)) == RunResult(0)
    assert run.engine.answers == [Answer(IO, 0x88), Answer(IO, 0x7788), Answer(IO, 0x55667788)]
    guest = run.hypervisor(1).guest
    assert [guest.last(IO, port) for port in (0x5000, 0x5001, 0x5002)] == [0x88, 0x7788, 0x55667788]


def test_a_handled_read_without_a_value_gets_zero(make: Callable[..., Run]) -> None:
    run = make(scripted())
    assert run.go(reads(0x5000, 4), reads(0x5000, 2, 3)) == RunResult(0)
    assert run.engine.answers == [Answer(IO), Answer(IO, data=bytes(6))]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result.read(0x1234), b"\x34\x12" * 3),
        (Result.read(0x99991234), b"\x34\x12" * 3),
        (Result.read_bytes(b"abcdef"), b"abcdef"),
        (Result.read_bytes(b"abcdefgh"), b"abcdef"),
        (Result.read_bytes(b"ab"), b"ab\0\0\0\0"),
        (HANDLED, bytes(6)),
    ],
)
def test_a_string_read_gets_all_elements(make: Callable[..., Run], result: Result, expected: bytes) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: result
    assert run.go(reads(0x5000, 2, 3)) == RunResult(0)
    assert run.engine.answers == [Answer(IO, data=expected)]
    assert run.hypervisor(1).guest.last(IO, 0x5000) == int.from_bytes(expected[-2:], "little")


def test_a_string_write_is_shown_whole_and_its_last_element_is_the_effect(make: Callable[..., Run]) -> None:
    run = make(scripted())
    assert run.go(writes(0x5000, b"abcdef", 2)) == RunResult(0)
    (event,) = run.hypervisor(1).seen
    assert (event.data, event.count, event.size) == (b"abcdef", 3, 2)
    assert run.hypervisor(1).guest.last(IO, 0x5000, write=True) == int.from_bytes(b"ef", "little")


def test_every_field_of_an_event_is_presented(make: Callable[..., Run]) -> None:
    run = make(scripted("emulation-failure", 0, ONES))
    run.go(Exit(ExitReason.EMULATION_FAILURE, 0x0FB8 << 48, Direction.EXECUTE, info=1, raw=17, instruction=b"\x0f\xb8"))
    (event,) = run.hypervisor(1).seen
    assert (event.reason, event.level, event.qualifier) == (ExitReason.EMULATION_FAILURE, 2, 0x0FB8 << 48)
    assert (event.direction, event.size, event.count, event.value, event.data) == (Direction.EXECUTE, 0, 1, 0, b"")
    assert (event.info, event.raw, event.instruction) == (1, 17, b"\x0f\xb8")


def test_declined_goes_down_level_by_level_and_ends_at_the_empty_bus(make: Callable[..., Run]) -> None:
    run = make(scripted(), scripted(), scripted())
    for level in (1, 2, 3):
        run.hypervisor(level).behave = lambda _, event: Result.declined()
    assert run.go(reads(0x5000, 2), writes(0x5000, 1), reads(0x5000, 2, 2)) == RunResult(0)
    assert [[event.level for event in run.hypervisor(level).seen] for level in (3, 2, 1)] == [[4] * 3, [3] * 3, [2] * 3]
    assert run.engine.answers == [Answer(IO, 0xFFFF), Answer(IO), Answer(IO, data=b"\xff" * 4)]


def test_declined_reaches_the_device_of_l0_in_c(make: Callable[..., Run]) -> None:
    run = make(scripted(first=0x3F8, last=0x3FF))
    run.hypervisor(1).behave = lambda _, event: Result.declined()
    assert run.go(writes(0x3FF, 0x5A), reads(0x3FF)) == RunResult(0)
    assert run.engine.answers[1] == Answer(IO, 0x5A), "the UART's scratch register"
    rows = {(row.level, row.who): (row.count, row.served_in_c) for row in Account.of(run.tower, Clock(), 1).rows}
    assert rows == {(0, "UART"): (2, 0), (0, "debug exit"): (1, 0)}


def test_reflected_goes_to_the_named_level_past_those_between(make: Callable[..., Run]) -> None:
    run = make(scripted(), scripted(), scripted())
    run.hypervisor(3).behave = lambda _, event: Result.reflected(1)
    run.hypervisor(1).behave = lambda _, event: Result.read(7)
    assert run.go(reads(0x5000)) == RunResult(0)
    assert [len(run.hypervisor(level).seen) for level in (1, 2, 3)] == [1, 0, 1]
    assert run.engine.answers == [Answer(IO, 7)]


def test_reflected_to_l0_where_it_claims_nothing_is_the_empty_bus(make: Callable[..., Run]) -> None:
    run = make(scripted(), scripted())
    run.hypervisor(2).behave = lambda _, event: Result.reflected(0)
    assert run.go(reads(0x5000)) == RunResult(0)
    assert run.hypervisor(1).seen == []
    assert run.engine.answers == [Answer(IO, 0xFF)]


@pytest.mark.parametrize("to", [2, 3, 4, -1])
def test_reflected_upward_or_to_itself_is_refused(make: Callable[..., Run], to: int) -> None:
    run = make(scripted(), scripted(), scripted())
    run.hypervisor(3).behave = lambda _, event: Result.declined()
    run.hypervisor(2).behave = lambda _, event: Result.reflected(to)
    with pytest.raises(
        HypervisorError, match=f"^L2 Scripted reflected io 0x5000 to L{to}, which is not below it or does"
    ):
        run.go(reads(0x5000))


def test_reflected_to_a_level_that_does_not_claim_it_is_refused(make: Callable[..., Run]) -> None:
    run = make(scripted(), scripted(first=0x9000, last=0x9000), scripted())
    run.hypervisor(3).behave = lambda _, event: Result.reflected(2)
    with pytest.raises(HypervisorError, match=r"^L3 Scripted reflected io 0x5000 to L2"):
        run.go(reads(0x5000))


@pytest.mark.parametrize(("vector", "code"), [(13, 0x18), (6, None), (14, 2), (0, None), (31, None)])
def test_faulted_is_an_exception_after_the_access_is_settled(
    make: Callable[..., Run], vector: int, code: int | None
) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.faulted(vector, code)
    assert run.go(reads(0x5000)) == RunResult(0)
    assert run.engine.log == [("settle",), ("regs", {}), ("exception", vector, code)]


def test_faulted_keeps_what_the_handler_changed_and_undoes_the_access(make: Callable[..., Run]) -> None:
    run = make(scripted())

    def fault(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        regs.rbx = 5
        hypervisor.guest.set_regs(regs)
        return Result.faulted(6)

    run.hypervisor(1).behave = fault
    assert run.go(reads(0x5000)) == RunResult(0)
    assert run.engine.log == [("settle",), ("regs", {}), ("regs", {"rbx": 5}), ("exception", 6, None)]


def test_gp_on_an_msr_is_the_access_itself_failing(make: Callable[..., Run]) -> None:
    run = make(scripted("rdmsr", 0x10, 0x10), scripted("wrmsr", 0x10, 0x10))
    for level in (1, 2):
        run.hypervisor(level).behave = lambda _, event: Result.faulted(13, 0)
    assert run.go(reads_msr(0x10), writes_msr(0x10, 5)) == RunResult(0)
    assert [(answer.reason, answer.fault) for answer in run.engine.answers] == [
        (ExitReason.RDMSR, True),
        (ExitReason.WRMSR, True),
    ]
    assert run.engine.log == []


def test_gp_with_an_error_code_on_an_msr_tells_it(make: Callable[..., Run]) -> None:
    run = make(scripted("rdmsr", 0x10, 0x10))
    run.hypervisor(1).behave = lambda _, event: Result.faulted(13, 0x50)
    assert run.go(reads_msr(0x10)) == RunResult(0)
    assert not any(answer.fault for answer in run.engine.answers)
    assert run.engine.log[-1] == ("exception", 13, 0x50)


@pytest.mark.parametrize(
    ("vector", "code", "wrong"),
    [
        (2, None, "vector 2 is no exception: they are 0 to 31, without 2"),
        (32, None, "vector 32 is no exception: they are 0 to 31, without 2"),
        (300, None, "vector 300 is no exception: they are 0 to 31, without 2"),
        (-1, None, "vector -1 is no exception: they are 0 to 31, without 2"),
        (13, None, "exception 13 has an error code: give one, which is 0 if there is nothing to tell"),
        (8, None, "exception 8 has an error code: give one, which is 0 if there is nothing to tell"),
        (6, 0, "exception 6 has no error code: leave out 0x0"),
        (16, 0x18, "exception 16 has no error code: leave out 0x18"),
        (14, 1 << 32, "exception 14 has an error code of 32 bits: 0x100000000 is none"),
        (14, -1, "exception 14 has an error code of 32 bits: -0x1 is none"),
    ],
)
def test_an_exception_that_no_processor_raises_is_the_hypervisors_error(
    make: Callable[..., Run], vector: int, code: int | None, wrong: str
) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.faulted(vector, code)
    with pytest.raises(HypervisorError) as error:
        run.go(reads(0x5000))
    assert str(error.value) == f"L1 Scripted has its guest fault: {wrong}"
    run = make(scripted())
    run.hypervisor(1).behave = lambda hypervisor, _: hypervisor.guest.inject(vector, code)
    with pytest.raises(HypervisorError, match=r"^L1 Scripted raised ValueError on <io read 0x5000") as error:
        run.go(reads(0x5000))
    assert str(error.value).endswith(f"ValueError: {wrong}")
    assert ("exception", vector, code) not in run.engine.log


def test_stopped_ends_the_run_with_its_status_and_message(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.stopped(42, "enough")
    assert run.go(writes(0x5000, 1), writes(0x5000, 2)) == RunResult(42, "enough")
    assert len(run.hypervisor(1).seen) == 1
    assert sum(row.count for row in Account.of(run.tower, Clock(), 1).rows) == run.engine.vcpu.exits == 1


@pytest.mark.parametrize("status", [-1, 256])
def test_a_status_that_no_process_has_is_the_hypervisors_error(make: Callable[..., Run], status: int) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.stopped(status)
    with pytest.raises(HypervisorError, match=f"L1 Scripted stopped the run with status {status}, which is not within"):
        run.go(writes(0x5000, 1))


def test_a_handler_that_raises_ends_the_run_with_level_event_and_traceback(make: Callable[..., Run]) -> None:
    run = make(scripted(), scripted(), scripted(first=0, last=0))

    def broken(hypervisor: Scripted, event: Event) -> Result:
        return Result.read([1, 2, 3][event.qualifier])

    run.hypervisor(2).behave = broken
    with pytest.raises(HypervisorError) as caught:
        run.go(reads(0x5010, 2))
    message = str(caught.value)
    assert message.startswith("L2 Scripted raised IndexError on <io read 0x5010 size 2 count 1 value 0x0 from L3>\n")
    assert "Traceback (most recent call last)" in message
    assert "return Result.read([1, 2, 3][event.qualifier])" in message
    assert caught.value.status == 4


@pytest.mark.parametrize("answer", [None, 0, True, "handled", (0, 1)])
def test_a_handler_must_answer_with_a_result(make: Callable[..., Run], answer: object) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: answer
    with pytest.raises(HypervisorError, match=r"L1 Scripted answered .* to <io read .* a handler must return a Result"):
        run.go(reads(0x5000))


@pytest.mark.parametrize("where", ["claims", "cpuid", "start", "stop"])
def test_a_hypervisor_that_raises_elsewhere_is_named_too(make: Callable[..., Run], where: str) -> None:
    with pytest.raises(HypervisorError, match=rf"^L2 Failing raised RuntimeError in {where}\(\)\nTraceback"):
        make(scripted(), LevelSpec("scripted:Failing", {"where": where})).tower.close()


def test_a_listener_or_console_that_raises_is_named_too(make: Callable[..., Run]) -> None:
    run = make(scripted(), LevelSpec("scripted:Failing", {"where": "propagated"}))
    with pytest.raises(
        HypervisorError, match=r"^L2 Failing raised RuntimeError in propagated\(<io read 0x5000 .* L3>\)"
    ):
        run.go(reads(0x5000))
    run = make(LevelSpec("scripted:Failing", {"where": "receive"}))
    with pytest.raises(HypervisorError, match=r"^L1 Failing raised RuntimeError in receive\(\)"):
        run.tower.receive(b"x")


def test_cpuid_goes_up_through_every_level(make: Callable[..., Run]) -> None:
    run = make(
        LevelSpec("cpuid-policy", {"vendor": "LevelOneHere"}), LevelSpec("cpuid-policy", {"vendor": "LevelTwoHere"})
    )
    entry = run.engine.cpuid[0]
    assert b"".join(word.to_bytes(4, "little") for word in (entry.ebx, entry.edx, entry.ecx)) == b"LevelTwoHere"


def test_an_engine_that_fails_is_an_error_of_the_host(make: Callable[..., Run]) -> None:
    run = make()
    run.engine.run = lambda enter: (_ for _ in ()).throw(HostError("no more"))  # type: ignore[method-assign]
    with pytest.raises(HostError, match="no more"):
        run.go()


def test_the_machine_is_what_the_tower_says(make: Callable[..., Run]) -> None:
    run = make(scripted("rdmsr", 0x10, 0x1F), scripted("debug", 3, 3), machine="pc")
    config = run.engine.config
    assert (config.machine, config.level) == ("pc", 3)
    assert list(config.wanted) == [Scope(ExitReason.RDMSR, 0x10, 0x1F), Scope(ExitReason.DEBUG, 3, 3)]
    assert results(run.tower, 1) == [0]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["read", "declined", "reflected"]), min_size=1, max_size=6),
    st.lists(st.integers(0, 1), min_size=1, max_size=8),
    st.booleans(),
)
def test_every_exit_is_accounted_once_to_the_level_that_answered(
    make: Callable[..., Run], behaviours: list[str], directions: list[int], strings: bool
) -> None:
    run = make(*[scripted()] * len(behaviours))
    answers = {
        "read": lambda _, event: Result.read(0x5A),
        "declined": lambda _, event: Result.declined(),
        "reflected": lambda _, event: Result.reflected(0),
    }
    for level, behaviour in enumerate(behaviours, start=1):
        run.hypervisor(level).behave = answers[behaviour]
    exits = [writes(0x5000, b"ab" if strings else 1) if way else reads(0x5000, 1, 1 + strings) for way in directions]
    assert run.go(*exits) == RunResult(0)
    handler = 0
    for level in range(len(behaviours), 0, -1):
        if behaviours[level - 1] == "reflected":
            break
        if behaviours[level - 1] == "read":
            handler = level
            break
    account = Account.of(run.tower, Clock(), 1)
    levels = {row.level: row.count for row in account.rows if row.who != "debug exit"}
    assert levels == {handler: len(directions)}
    assert sum(row.count for row in account.rows) == account.exits == len(directions) + 1
    assert sum(one.count for one in account.unclaimed) == (0 if handler else len(directions))
