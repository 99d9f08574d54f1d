"""The runner above a made-up engine: what becomes of each answer that a handler can give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import (
    Answer,
    Exit,
    FakeEngine,
    loads,
    reads,
    reads_msr,
    stores,
    writes,
    writes_msr,
)
from guest_code import results, spec_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestvmm.engines import ENGINES
from nestvmm.errors import HostError, HypervisorError
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Hypervisor, Result
from nestvmm.kvm import Sregs
from nestvmm.nesting import Account, Clock, LevelSpec, Runner, RunResult, Tower
from nestvmm.nesting.memory import Region
from nestvmm.x86.event import Direction

IO, MMIO, RDMSR = ExitReason.IO, ExitReason.MMIO, ExitReason.RDMSR
ONES = 0xFFFFFFFFFFFFFFFF

Handler = Callable[["Scripted", Event], object]


class Scripted(Hypervisor):
    """Claims `reason` from `first` to `last`; `behave` answers, and is set by the test."""

    def __init__(self, reason: str = "io", first: int = 0x5000, last: int = 0x50FF) -> None:
        self._claim = (ExitReason.from_label(reason), first, last)
        self.behave: Handler = lambda _self, _event: HANDLED
        self.seen: list[Event] = []

    def claims(self) -> Iterable[Any]:
        yield (*self._claim, None, self.access)

    def access(self, event: Event) -> Any:
        self.seen.append(event)
        return self.behave(self, event)


class Listening(Scripted):
    def __init__(self, reason: str = "io", first: int = 0x6000, last: int = 0x60FF) -> None:
        super().__init__(reason, first, last)
        self.heard: list[tuple[int, int, int]] = []

    def propagated(self, event: Event, value: int) -> None:
        self.heard.append((event.level, event.qualifier, value))


class Failing(Hypervisor):
    """Raises in one of its methods."""

    console = True

    def __init__(self, where: str) -> None:
        self._where = where

    def _may_fail(self, where: str) -> None:
        if where == self._where:
            raise RuntimeError(f"no {where} today")

    def claims(self) -> Iterable[Any]:
        self._may_fail("claims")
        return ()

    def cpuid(self, entries: list[Any]) -> list[Any]:
        self._may_fail("cpuid")
        return entries

    def start(self, guest: Any) -> None:
        self._may_fail("start")

    def stop(self) -> None:
        self._may_fail("stop")

    def receive(self, data: bytes) -> int:
        self._may_fail("receive")
        return len(data)

    def propagated(self, event: Event, value: int) -> None:
        self._may_fail("propagated")


class Starting(Hypervisor):
    """Looks at its guest, and changes it, before its first instruction."""

    def start(self, guest: Any) -> None:
        super().start(guest)
        regs = guest.regs
        regs.rbx = 0x77
        guest.set_regs(regs)


def scripted(reason: str = "io", first: int = 0x5000, last: int = 0x50FF) -> LevelSpec:
    return LevelSpec(f"{__name__}:Scripted", {"reason": reason, "first": first, "last": last})


class Run:
    """A tower on the fake engine; `go` runs it through some exits."""

    def __init__(self, folder: Path, levels: Iterable[LevelSpec], **options: Any) -> None:
        self.tower = Tower(spec_of(folder, b"\xf4", list(levels), engine="fake", **options), stdout=-1)
        self.engine: FakeEngine = self.tower.engine  # type: ignore[assignment]
        self.engine.log.clear()

    def hypervisor(self, level: int) -> Any:
        return self.tower.hypervisors[level - 1]

    def go(self, *exits: Exit) -> RunResult:
        self.engine.exits.extend(exits)
        return Runner(self.tower).run()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterable[Callable[..., Run]]:
    monkeypatch.setitem(ENGINES, "fake", FakeEngine)  # type: ignore[misc]
    runs: list[Run] = []

    def maker(*levels: LevelSpec, **options: Any) -> Run:
        runs.append(Run(tmp_path, levels, **options))
        return runs[-1]

    yield maker
    for run in runs:
        run.tower.close()


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


@pytest.mark.parametrize("vector", [2, 32, 255, 300, -1])
def test_faulted_with_what_is_no_exception_is_the_hypervisors_error(make: Callable[..., Run], vector: int) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.faulted(vector)
    with pytest.raises(HypervisorError, match=f"^L1 Scripted answered by vector {vector}; exceptions are 0 to 31"):
        run.go(reads(0x5000))


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
        make(scripted(), LevelSpec(f"{__name__}:Failing", {"where": where})).tower.close()


def test_a_listener_or_console_that_raises_is_named_too(make: Callable[..., Run]) -> None:
    run = make(scripted(), LevelSpec(f"{__name__}:Failing", {"where": "propagated"}))
    with pytest.raises(
        HypervisorError, match=r"^L2 Failing raised RuntimeError in propagated\(<io read 0x5000 .* L3>\)"
    ):
        run.go(reads(0x5000))
    run = make(LevelSpec(f"{__name__}:Failing", {"where": "receive"}))
    with pytest.raises(HypervisorError, match=r"^L1 Failing raised RuntimeError in receive\(\)"):
        run.tower.receive(b"x")


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
            "guest at L2 died: the processor refused its state, code 0x21",
        ),
        (Exit(ExitReason.MEMORY_FAULT, 0x1234), 255, "KVM could not reach the memory behind physical address 0x1234"),
        (Exit(ExitReason.MEMORY_FAULT, ONES), 255, "KVM could not reach the memory behind one of its addresses"),
        (Exit(ExitReason.SYSTEM_EVENT, 2), 0, "guest asked for system event 2"),
        (Exit(ExitReason.UNKNOWN, raw=77), 255, "guest at L2 died: exit 77 that nestvmm does not know"),
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


@pytest.mark.parametrize("reason", [ExitReason.CPUID, ExitReason.HYPERCALL, ExitReason.RDTSC])
def test_a_reason_that_not_even_l0_handles_ends_the_run(make: Callable[..., Run], reason: ExitReason) -> None:
    result = make().go(Exit(reason, 1))
    assert result.status == 4
    assert result.message.startswith(f"nobody claims <{reason.label} read 0x1 ")


def test_only_changed_registers_are_written_and_after_the_events_own_answer(make: Callable[..., Run]) -> None:
    run = make(scripted())

    def change(hypervisor: Scripted, event: Event) -> Result:
        guest = hypervisor.guest
        regs = guest.regs
        regs.rbx, regs.rcx = 1, 2
        guest.set_regs(regs)
        guest.skip(3)
        assert (guest.regs.rbx, guest.regs.rip) == (1, regs.rip + 3)
        sregs = guest.sregs
        sregs.cr3 = 0x5000
        guest.set_sregs(sregs)
        sregs.cr3 = 0x6000
        assert guest.sregs.cr3 == 0x5000, "a copy was taken, and a copy is given"
        return Result.read(9)

    run.hypervisor(1).behave = change
    rip = run.engine.regs().rip
    assert run.go(reads(0x5000), reads(0x61F0)) == RunResult(0)
    assert run.engine.log == [("settle",), ("regs", {"rbx": 1, "rcx": 2, "rip": rip + 3}), ("sregs", 0x5000)]
    assert run.engine.answers == [Answer(IO, 9), Answer(IO, 0xFF)]


def test_a_handler_that_only_looks_writes_nothing(make: Callable[..., Run]) -> None:
    run = make(scripted())
    seen = []

    def look(hypervisor: Scripted, event: Event) -> Result:
        hypervisor.guest.set_regs(hypervisor.guest.regs)
        seen.append((hypervisor.guest.regs.rax, isinstance(hypervisor.guest.sregs, Sregs)))
        return HANDLED

    run.hypervisor(1).behave = look

    def change_behind_its_back() -> None:
        regs = run.engine.regs()
        regs.rax += 5
        run.engine.set_regs(regs)

    second = reads(0x5000)
    second.before = change_behind_its_back
    assert run.go(reads(0x5000), second) == RunResult(0)
    assert seen == [(0, True), (5, True)], "each event reads the registers anew"
    assert run.engine.log == [("regs", {"rax": 5})]


def test_registers_changed_before_the_first_instruction_are_the_first_events(make: Callable[..., Run]) -> None:
    run = make(LevelSpec(f"{__name__}:Starting"), scripted())
    assert run.engine.regs().rbx == 0x77
    run.hypervisor(2).behave = lambda hypervisor, event: Result.stopped(hypervisor.guest.regs.rcx & 0xFF)

    def change_behind_its_back() -> None:
        regs = run.engine.regs()
        regs.rcx = 0x1C
        run.engine.set_regs(regs)

    first = reads(0x5000)
    first.before = change_behind_its_back
    assert run.go(first).status == 0x1C


@pytest.mark.parametrize("length", [0, 16, -1])
def test_no_instruction_has_such_a_length(make: Callable[..., Run], length: int) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda hypervisor, event: hypervisor.guest.skip(length)
    with pytest.raises(HypervisorError, match=f"an instruction has 1 to 15 bytes, not {length}"):
        run.go(reads(0x5000))


def test_an_access_in_parts_is_two_events_and_registers_change_after_the_last(make: Callable[..., Run]) -> None:
    run = make(scripted("mmio", 0xD0000000, 0xD0001FFF))

    def change(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        regs.rbx += 1
        hypervisor.guest.set_regs(regs)
        return Result.read(0x11 * len(hypervisor.seen))

    run.hypervisor(1).behave = change
    second = loads(0xD0001000, 4)
    second.part = True
    assert run.go(loads(0xD0000FFC, 4), second) == RunResult(0)
    assert run.engine.answers == [Answer(MMIO, 0x11), Answer(MMIO, 0x22)]
    assert run.engine.log == [("settle",), ("settle",), ("regs", {"rbx": 2})]


@pytest.mark.parametrize(("port", "value"), [(0x3FF, 0), (0x61F0, 0xFF)])
def test_a_last_part_that_c_serves_still_brings_the_changed_registers(
    make: Callable[..., Run], port: int, value: int
) -> None:
    run = make(scripted())

    def change(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        regs.rbx = 8
        hypervisor.guest.set_regs(regs)
        return HANDLED

    run.hypervisor(1).behave = change
    second = reads(port)
    second.part = True
    assert run.go(reads(0x5000), second, reads(0x61F1)) == RunResult(0)
    assert run.engine.answers == [Answer(IO), Answer(IO, value), Answer(IO, 0xFF)]
    assert run.engine.log == [("settle",), ("settle",), ("regs", {"rbx": 8})]


def test_a_fault_drops_the_parts_that_are_left(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.faulted(6)
    run.engine.exits.append(reads(0x5000))

    # the fake hands a part over when it is decoded: let it vanish as KVM's does when it is completed unseen
    def settle() -> None:
        run.engine.log.append(("settle",))
        run.engine.vcpu.exited = len(run.engine.log) == 1

    run.engine.settle = settle  # type: ignore[method-assign]
    assert run.go().status == 0
    assert run.engine.log == [("settle",), ("settle",), ("regs", {}), ("exception", 6, None)]


def test_listeners_above_the_handler_hear_in_their_own_coordinates(make: Callable[..., Run]) -> None:
    offset = (Region(0, 0x1FF000, 0), Region(0xE0000000, 0x1000, 0xD0000000))
    listening = LevelSpec(f"{__name__}:Listening", {}, offset)
    plain = LevelSpec(f"{__name__}:Listening")
    run = make(plain, scripted("mmio", 0xD0000000, 0xD0000FFF), listening, plain)
    run.hypervisor(2).behave = lambda _, event: Result.read(3)
    assert run.go(loads(0xE0000010)) == RunResult(0)
    assert [event.qualifier for event in run.hypervisor(2).seen] == [0xD0000010]
    assert run.hypervisor(3).heard == [(4, 0xE0000010, 3)]
    assert run.hypervisor(4).heard == [(5, 0xE0000010, 3)]
    assert run.hypervisor(1).heard == []


def test_effects_of_aliased_addresses_are_one_levels_newest(make: Callable[..., Run]) -> None:
    twice = (
        Region(0, 0x1FF000, 0),
        Region(0xE0000000, 0x1000, 0xD0000000),
        Region(0xE0001000, 0x1000, 0xD0000000),
    )
    run = make(scripted("mmio", 0xD0000000, 0xD0000FFF), LevelSpec(f"{__name__}:Listening", {}, twice))
    assert run.go(stores(0xE0000008, 1), stores(0xE0001008, 2)) == RunResult(0)
    assert run.hypervisor(1).guest.last(MMIO, 0xD0000008, write=True) == 2
    assert run.hypervisor(2).guest.last(MMIO, 0xE0000008, write=True) == 1
    assert run.hypervisor(2).guest.last(MMIO, 0xE0001008, write=True) == 2
    assert run.hypervisor(1).guest.last(MMIO, 0xDFFFFFFF, write=True) is None


def test_cpuid_goes_up_through_every_level(make: Callable[..., Run]) -> None:
    run = make(
        LevelSpec("cpuid-policy", {"vendor": "LevelOneHere"}), LevelSpec("cpuid-policy", {"vendor": "LevelTwoHere"})
    )
    entry = run.engine.cpuid[0]
    assert b"".join(word.to_bytes(4, "little") for word in (entry.ebx, entry.edx, entry.ecx)) == b"LevelTwoHere"


def test_an_engine_that_fails_is_an_error_of_the_host(make: Callable[..., Run]) -> None:
    run = make()
    run.engine.run = lambda: (_ for _ in ()).throw(HostError("no more"))  # type: ignore[method-assign]
    with pytest.raises(HostError, match="no more"):
        run.go()


def test_the_machine_is_what_the_tower_says(make: Callable[..., Run]) -> None:
    run = make(scripted("rdmsr", 0x10, 0x1F), scripted("debug", 3, 3), machine="pc")
    config = run.engine.config
    assert (config.machine, config.level, config.debug) == ("pc", 3, frozenset({3}))
    assert [(one.first, one.last, one.read, one.write) for one in config.msrs] == [(0x10, 0x1F, True, False)]
    assert results(run.tower, 1) == [0]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
