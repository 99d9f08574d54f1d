"""Random bytes at CPL 0 end in a run, a fault of the guest, or a clear error; nothing outside its memory changes."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from cpl_machine import CODE, DATA_SIZE, Machine, State
from test_completion_differential import area, state

from nestvmm._native import lib
from nestvmm.engines import RunStatus
from nestvmm.nesting.monitor import GUEST_DIED, monitor_claims
from nestvmm.x86.event import Event, Outcome, Result
from nestvmm.x86.exit_reason import ExitReason

pytestmark = pytest.mark.kvm

CASES = 5000
# VMCALL and VMMCALL: KVM-PVM never comes back from them at CPL 0
NEVER = (b"\x0f\x01\xc1", b"\x0f\x01\xd9")
ENDS = {"ran", "fault", "stopped", "timeout"}


def garbage(chance: random.Random, size: int) -> bytes:
    """Random bytes; some begin with what leads to the vector instructions."""
    data = chance.choice(
        [b"", b"", b"\x0f", b"\xf3\x0f", b"\x66\x0f", b"\xc4\xe2", b"\xd9", b"\x62"]
    ) + chance.randbytes(size)
    return b"\x90" * size if any(one in data for one in NEVER) else data[:size]


@pytest.fixture
def kicking() -> Iterator[Callable[[Machine], None]]:
    """Kicks a machine every 20 ms: what loops ends then."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(machine: Machine) -> None:
        def kick() -> None:
            while not stop.wait(0.02):
                machine.engine.kick()

        threads.append(threading.Thread(target=kick, daemon=True))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def event_of(machine: Machine) -> Event:
    native = machine.engine.vcpu.event
    length = native.instruction_length
    return Event(
        ExitReason(native.reason),
        1,
        native.qualifier,
        info=native.info,
        raw=native.raw,
        instruction=bytes(native.instruction[0:length]),
    )


def ending(machine: Machine, handlers: dict[ExitReason, Callable[[Event], Result]]) -> str:
    """Runs until something that is not the completer's."""
    for _ in range(2000):
        status = machine.engine.run()
        if status == RunStatus.KICKED:
            return "timeout"
        event = event_of(machine)
        if event.reason is ExitReason.IO:
            return "fault" if event.qualifier < 32 else "ran"
        if event.reason is ExitReason.MMIO:
            return "ran"
        result = handlers[event.reason](event)
        if result.outcome is Outcome.STOPPED:
            assert result.status in (0, GUEST_DIED)
            assert result.message
            return "stopped"
        if result.outcome is Outcome.FAULTED:
            lib.nv_vcpu_finish(machine.engine.vcpu)
            machine.engine.settle()
            machine.engine.exception(result.vector, result.error_code)
    return "timeout"


def test_5000_random_byte_strings_end_in_order(kicking: Callable[[Machine], None]) -> None:
    chance = random.Random(7)
    ends: Counter[str] = Counter()
    with Machine() as machine:
        machine.fill_margins(chance.randbytes(256))
        before = machine.margins()
        kicking(machine)
        handlers = {claim.scope.reason: claim.handler for claim in monitor_claims(machine.engine)}
        for _ in range(CASES):
            machine.renew()
            start = state(chance)
            machine.prepare(garbage(chance, 64), State(start.regs, area(chance), bytes(DATA_SIZE)), 0, CODE)
            machine.engine.completer.limit = 10_000
            ends[ending(machine, handlers)] += 1
        assert machine.margins() == before
        assert machine.engine.completer.total > CASES // 20
    assert set(ends) <= ENDS
    assert ends["fault"] > 0
    assert ends["stopped"] > 0
    assert sum(ends.values()) == CASES
