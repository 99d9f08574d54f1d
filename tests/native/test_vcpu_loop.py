"""The run loop with an engine of three callbacks: what it serves, what it hands to Python, and kicks."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nestvmm._native import ffi, lib

PORT = 0x60
# the slot of claim 1
FIRST = lib.NV_REASONS + 1
EVENT, KICKED, DRAIN = lib.NV_RUN_EVENT, lib.NV_RUN_KICKED, lib.NV_RUN_DRAIN


class Loop:
    """A vCPU whose exits are reads of PORT; a table with the claims that a test wants."""

    def __init__(self) -> None:
        self.script: list[int | dict[str, int]] = []
        self.entered: list[int] = []
        self.completed: list[dict[str, int]] = []
        self.during_enter = lambda: None
        self.served = 0
        self._callbacks = [
            ffi.callback("int(struct nv_vcpu *)", self._enter),
            ffi.callback("void(struct nv_vcpu *, struct nv_event *)", self._decode),
            ffi.callback("void(struct nv_vcpu *, struct nv_event *)", self._complete),
            ffi.callback("int(void *, uint64_t, struct nv_event *)", self._serve),
        ]
        names = ("enter", "decode", "complete")
        self.ops = ffi.new("struct nv_engine_ops *", dict(zip(names, self._callbacks[:3], strict=True)))
        self.run_page = ffi.new("struct kvm_run *")
        self.data = ffi.new("uint8_t[8]")
        self.vcpu = ffi.new("struct nv_vcpu *")
        lib.nv_vcpu_init(self.vcpu, self.ops, 5)
        self.vcpu.run = self.run_page
        self.ports = [ffi.new("uint16_t[]", lib.NV_PORTS) for _ in range(2)]
        # slots NV_REASONS and on are the claims'
        self.claims = ffi.new("struct nv_claim[4]")
        self.servers = ffi.new("struct nv_server[2]", [{}, {"serve": self._callbacks[3], "base": PORT - 2}])
        self.table = ffi.new("struct nv_table *", {"claims": self.claims, "servers": self.servers, "ports": self.ports})
        self.counters = ffi.new("struct nv_counter[]", lib.NV_REASONS + 4)
        self.unclaimed = ffi.new("struct nv_unclaimed *")
        self.vcpu.table = self.table
        self.vcpu.counters = self.counters
        self.vcpu.unclaimed = self.unclaimed
        self.answer = lib.NV_HANDLED
        self.offsets: list[int] = []

    def claim(self, number: int, *, following: int = 0, server: bool = False, level: int = 0) -> None:
        self.claims[number] = {
            "next": following,
            "slot": lib.NV_REASONS + number,
            "server": int(server),
            "level": level,
        }

    def first(self, number: int) -> None:
        self.ports[0][PORT] = self.ports[1][PORT] = number

    def _enter(self, _vcpu: Any) -> int:
        self.entered.append(self.run_page.immediate_exit)
        self.during_enter()
        if self.run_page.immediate_exit or not self.script:
            return -errno.EINTR
        if isinstance(self.script[0], int):
            return self.script.pop(0)
        return 0

    def _decode(self, _vcpu: Any, event: Any) -> None:
        fields: dict[str, Any] = {
            "reason": lib.NV_REASON_IO,
            "qualifier": PORT,
            "direction": lib.NV_READ,
            "size": 1,
            "count": 1,
            "value": 0,
        }
        fields.update(self.script.pop(0))  # type: ignore[arg-type]
        for name, value in fields.items():
            setattr(event, name, value)
        event.data = self.data

    def _complete(self, _vcpu: Any, event: Any) -> None:
        self.completed.append({"value": event.value, "fault": event.fault, "data": self.data[0]})

    def _serve(self, _device: Any, offset: int, event: Any) -> int:
        self.offsets.append(offset)
        event.value = 0x42
        return self.answer

    def go(self) -> int:
        return int(lib.nv_vcpu_run(self.vcpu))

    def counts(self) -> dict[int, tuple[int, int]]:
        """(count, served in C) by slot."""
        return {i: (c.count, c.served) for i, c in enumerate(self.counters) if c.count}


@pytest.fixture
def loop() -> Iterator[Loop]:
    lib.nv_kick_init()
    return Loop()


def test_an_event_for_python_comes_back_decoded_and_is_completed_by_the_next_run(loop: Loop) -> None:
    loop.claim(1, level=3)
    loop.first(1)
    loop.script = [{"value": 0}]
    assert loop.go() == EVENT
    event = loop.vcpu.event
    assert (event.level, event.handler, event.claim, event.slot, event.served) == (5, 3, 1, FIRST, 0)
    assert (loop.vcpu.exits, loop.vcpu.pending, loop.completed) == (1, 1, [])
    event.value = 7
    lib.nv_vcpu_kick(loop.vcpu)
    assert loop.go() == KICKED
    assert loop.completed == [{"value": 7, "fault": 0, "data": 0}]
    assert loop.counts() == {FIRST: (1, 0)}
    assert loop.vcpu.pending == 0


def test_what_c_serves_never_comes_back(loop: Loop) -> None:
    loop.claim(1, server=True)
    loop.first(1)
    loop.script = [{}, {}, {}, -errno.EIO]
    assert loop.go() == -errno.EIO
    assert loop.offsets == [2, 2, 2], "from the server's base"
    assert [one["value"] for one in loop.completed] == [0x42] * 3
    assert loop.counts() == {FIRST: (3, 3)}


def test_only_levels_below_the_one_whose_software_runs_are_asked(loop: Loop) -> None:
    loop.claim(1, level=4, following=2)
    loop.claim(2, level=2, following=3)
    loop.claim(3, level=1)
    loop.first(1)
    handlers = []
    for level in (5, 4, 3, 2, 1):
        loop.vcpu.level = level
        loop.script = [{}]
        if loop.go() == EVENT:
            handlers.append((loop.vcpu.event.level, loop.vcpu.event.handler))
        lib.nv_vcpu_finish(loop.vcpu)
        if level == 2:
            # nobody is below level 1: the default answer, and then the kick
            lib.nv_vcpu_kick(loop.vcpu)
    assert handlers == [(5, 4), (4, 2), (3, 2), (2, 1)]


def test_a_turn_skips_levels_above_the_one_whose_software_runs(loop: Loop) -> None:
    loop.claim(1, level=3, following=2)
    loop.claim(2, level=4, following=3)
    loop.claim(3, level=1)
    loop.first(1)
    loop.vcpu.level = 4
    loop.script = [{}]
    assert loop.go() == EVENT
    assert lib.nv_vcpu_decline(loop.vcpu) == 3


def test_a_server_that_declines_hands_on_to_the_next_claim(loop: Loop) -> None:
    loop.claim(1, server=True, following=2)
    loop.claim(2, level=1)
    loop.first(1)
    loop.answer = lib.NV_DECLINED
    loop.script = [{}]
    assert loop.go() == EVENT
    assert (loop.vcpu.event.claim, loop.vcpu.event.handler, loop.vcpu.event.slot) == (2, 1, FIRST + 1)
    assert lib.nv_vcpu_decline(loop.vcpu) == 0
    assert (loop.vcpu.event.slot, loop.vcpu.event.handler) == (lib.NV_REASON_IO, 0)
    assert lib.nv_vcpu_serve(loop.vcpu) == 0


@pytest.mark.parametrize(
    ("exit_", "value", "fault"),
    [
        ({"direction": lib.NV_READ, "size": 1}, 0xFF, 0),
        ({"direction": lib.NV_READ, "size": 2}, 0xFFFF, 0),
        ({"direction": lib.NV_READ, "size": 4}, 0xFFFFFFFF, 0),
        ({"reason": lib.NV_REASON_MMIO, "size": 8}, 0xFFFFFFFFFFFFFFFF, 0),
        ({"direction": lib.NV_WRITE, "value": 9}, 9, 0),
        ({"reason": lib.NV_REASON_RDMSR, "size": 8}, 0, 1),
        ({"reason": lib.NV_REASON_WRMSR, "direction": lib.NV_WRITE, "size": 8}, 0, 1),
    ],
)
def test_what_nobody_claims_gets_the_empty_buss_answer(
    loop: Loop, exit_: dict[str, int], value: int, fault: int
) -> None:
    loop.script = [exit_, -errno.EIO]
    assert loop.go() == -errno.EIO
    assert [(one["value"], one["fault"]) for one in loop.completed] == [(value, fault)]
    reason = exit_.get("reason", lib.NV_REASON_IO)
    assert loop.counts() == {reason: (1, 1)}
    (row,) = [row for row in loop.unclaimed.row if row.count]
    assert (row.qualifier, row.reason, row.direction, row.count) == (PORT, reason, exit_.get("direction", 0), 1)


def test_strict_hands_what_nobody_claims_to_python(loop: Loop) -> None:
    loop.vcpu.strict = 1
    loop.script = [{}]
    assert loop.go() == EVENT
    assert (loop.vcpu.event.claim, loop.vcpu.event.slot) == (0, lib.NV_REASON_IO)


def test_a_reason_without_a_default_answer_goes_to_python(loop: Loop) -> None:
    loop.script = [{"reason": lib.NV_REASON_CPUID}]
    assert loop.go() == EVENT
    assert lib.nv_vcpu_default(loop.vcpu) == 0


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_an_interrupted_entry_is_tried_again(loop: Loop, error: int) -> None:
    loop.claim(1)
    loop.first(1)
    loop.script = [-error, -error, {}]
    assert loop.go() == EVENT
    assert len(loop.entered) == 3


def test_a_kick_before_the_run_ends_it_before_level_n_runs(loop: Loop) -> None:
    lib.nv_vcpu_kick(loop.vcpu)
    lib.nv_vcpu_kick(loop.vcpu)
    assert loop.run_page.immediate_exit == 1
    assert loop.go() == KICKED
    assert loop.entered == []
    assert loop.run_page.immediate_exit == 0
    loop.script = [-errno.EIO]
    assert loop.go() == -errno.EIO, "two kicks in a row are one"
    assert loop.entered == [0]


def test_what_is_left_of_a_kick_that_was_taken_does_not_end_every_entry(loop: Loop) -> None:
    """nv_vcpu_kick sets immediate_exit last: the loop may have taken the kick in between."""
    loop.run_page.immediate_exit = 1
    loop.claim(1)
    loop.first(1)
    loop.script = [{}]
    assert loop.go() == EVENT
    assert loop.entered == [0]


def test_what_is_left_of_a_kick_may_come_between_the_check_and_the_entry(loop: Loop) -> None:
    loop.claim(1)
    loop.first(1)
    loop.script = [{}]

    def late() -> None:
        if len(loop.entered) == 1:
            loop.run_page.immediate_exit = 1

    loop.during_enter = late
    assert loop.go() == EVENT
    assert loop.entered == [0, 0]


def test_a_kick_during_the_run_ends_it(loop: Loop) -> None:
    loop.during_enter = lambda: lib.nv_vcpu_kick(loop.vcpu) if len(loop.entered) == 3 else None
    assert loop.go() == KICKED
    assert len(loop.entered) == 3


def test_kicks_from_another_thread_are_never_lost_and_never_stick(loop: Loop) -> None:
    """Each kick must end a run that was or will be entered; no run may end without one."""
    kicks, taken = 300, 0
    ready = threading.Semaphore(0)

    def kicker() -> None:
        for _ in range(kicks):
            ready.acquire()
            lib.nv_vcpu_kick(loop.vcpu)

    thread = threading.Thread(target=kicker)
    thread.start()
    loop.during_enter = lambda: time.sleep(0)
    for _ in range(kicks):
        ready.release()
        assert loop.go() == KICKED
        taken += 1
    thread.join()
    assert taken == kicks
    loop.during_enter = lambda: None
    loop.script = [-errno.EIO]
    assert loop.go() == -errno.EIO


def test_a_full_ring_stops_the_loop_before_it_would_overwrite(loop: Loop) -> None:
    loop.claim(1, server=True)
    loop.first(1)
    trace = loop.vcpu.trace
    records = ffi.new("struct nv_trace_record[4]")
    trace.sites = sites = ffi.new("struct nv_trace_site[]", lib.NV_TRACE_SITES)
    text = ffi.new("char[]", b"x")
    trace.size, trace.record = 4, records
    loop.script = [{"value": i} for i in range(6)] + [-errno.EIO]  # type: ignore[operator]
    assert loop.go() == DRAIN
    assert (trace.head, trace.wanted) == (0, 1), "nobody has described where this event came from"
    assert loop.go() == DRAIN
    sites[records[0].site].text = text
    lib.nv_trace_described(ffi.addressof(loop.vcpu, "trace"))
    assert loop.go() == DRAIN
    assert (trace.head, trace.wanted) == (4, 0)
    assert loop.go() == DRAIN, "until somebody has read it"
    trace.tail = 4
    assert loop.go() == -errno.EIO
    assert trace.head == 6
    assert [record.sequence for record in records] == [4, 5, 2, 3]
    for record in records:
        times = [record.entered, record.event.ticks, record.decoded, record.routed, record.handled, record.done]
        assert times == sorted(times)
        assert times[0] > 0
        assert (record.rip, record.entries) == (0, 1)


def test_a_trace_counts_the_entries_that_brought_no_event(loop: Loop) -> None:
    loop.claim(1, server=True)
    loop.first(1)
    trace = loop.vcpu.trace
    records = ffi.new("struct nv_trace_record[4]")
    trace.sites = sites = ffi.new("struct nv_trace_site[]", lib.NV_TRACE_SITES)
    trace.size, trace.record = 4, records
    loop.script = [-errno.EAGAIN, -errno.EINTR, {"value": 1}]  # type: ignore[list-item]
    assert loop.go() == DRAIN
    assert records[0].entries == 3
    assert sites[records[0].site].text == ffi.NULL


def test_settling_takes_the_answer_and_runs_nothing(loop: Loop) -> None:
    loop.claim(1)
    loop.first(1)
    loop.script = [{}]
    assert loop.go() == EVENT
    loop.vcpu.event.value = 3
    assert lib.nv_vcpu_settle(loop.vcpu) == 0
    assert loop.completed == [{"value": 3, "fault": 0, "data": 0}]
    assert loop.entered == [0, 1]
    assert loop.vcpu.exited == 0
    loop.script = [{}]
    assert loop.go() == EVENT
    assert loop.entered == [0, 1, 0]


def test_an_exit_that_settling_brings_is_the_next_event_for_python(loop: Loop) -> None:
    loop.claim(1)
    loop.claim(2, server=True)
    loop.first(1)
    loop.script = [{}]
    assert loop.go() == EVENT
    loop.ports[0][PORT + 1] = 2
    loop.script = [0, {"qualifier": PORT + 1}]

    def exits_at_once() -> None:
        loop.run_page.immediate_exit = 0

    loop.during_enter = exits_at_once
    assert lib.nv_vcpu_settle(loop.vcpu) == 0
    assert (loop.vcpu.exited, loop.vcpu.exits) == (1, 1)
    assert loop.go() == EVENT
    assert (loop.vcpu.exited, loop.vcpu.exits, len(loop.entered)) == (0, 2, 2)
    assert loop.vcpu.event.claim == 2, "C would have served it"
    assert lib.nv_vcpu_serve(loop.vcpu) == 1


def test_settling_gives_the_engines_error(loop: Loop) -> None:
    loop.script = [-errno.EIO]
    loop.during_enter = lambda: setattr(loop.run_page, "immediate_exit", 0)
    assert lib.nv_vcpu_settle(loop.vcpu) == -errno.EIO
    assert loop.vcpu.exited == 0


def test_finishing_twice_accounts_once(loop: Loop) -> None:
    loop.claim(1)
    loop.first(1)
    loop.script = [{}]
    loop.go()
    lib.nv_vcpu_finish(loop.vcpu)
    lib.nv_vcpu_finish(loop.vcpu)
    assert loop.counts() == {FIRST: (1, 0)}
    assert len(loop.completed) == 1


def test_ticks_go_forward() -> None:
    assert 0 < lib.nv_ticks() < lib.nv_ticks()
