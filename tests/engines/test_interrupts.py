"""Interrupts, NMIs and halts of a machine without irqchip, on real hardware."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import guest_code as guest
import pytest
from guest_code import LevelSpec, Tower, results, run_in, spec_of

from nestvmm.hypervisors import (
    Direction,
    Event,
    Hypervisor,
    Result,
    on_io,
)

pytestmark = pytest.mark.kvm

PORT = 0x5000


class Interrupting(Hypervisor):
    """OUT to PORT queues an interrupt of that vector; to PORT + 1 queues it and raises #UD; PORT + 2: an NMI."""

    @on_io(PORT, 3, direction=Direction.WRITE)
    def access(self, event: Event) -> Result:
        if event.qualifier == PORT + 2:
            self.guest.nmi()
            return Result.handled()
        for vector in event.data:
            self.guest.interrupt(vector)
        return Result.faulted(6) if event.qualifier == PORT + 1 else Result.handled()


class Waking(Hypervisor):
    """OUT to PORT: an interrupt of that vector comes 100 ms later, from another thread."""

    thread: threading.Thread | None = None

    @on_io(PORT)
    def access(self, event: Event) -> Result:
        self.thread = threading.Timer(0.1, self.guest.interrupt, [event.value])
        self.thread.start()
        return Result.handled()

    def stop(self) -> None:
        if self.thread is not None:
            self.thread.join()


def mine(name: str, **options: int) -> LevelSpec:
    return LevelSpec(f"{__name__}:{name}", options)


COUNT_40 = {0x40: guest.handler(guest.add(0))}


def test_an_interrupt_is_delivered_at_once_when_the_guest_takes_interrupts(tmp_path: Path) -> None:
    code = guest.STI + guest.NOP + guest.out(PORT, 0x40) + guest.load(guest.RESULTS) + guest.keep(1) + guest.done()
    with Tower(spec_of(tmp_path, guest.with_handlers(code, COUNT_40), [mine("Interrupting")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 2) == [1, 1]


def test_interrupts_wait_in_order_until_the_guest_takes_them(tmp_path: Path) -> None:
    first = guest.handler(guest.add(0) + guest.load(guest.RESULTS + 8) + guest.keep(2))
    second = guest.handler(guest.add(1))
    code = guest.out(PORT, 0x40) + guest.out(PORT, 0x41) + guest.out(PORT, 0x40)
    code += (
        guest.load(guest.RESULTS)
        + guest.keep(3)
        + guest.STI
        + guest.until(1)
        + guest.until(2)
        + guest.CLI
        + guest.done()
    )
    image = guest.with_handlers(code, {0x40: first, 0x41: second})
    with Tower(spec_of(tmp_path, image, [mine("Interrupting")])) as tower:
        assert run_in(tower).status == 0
        kept = results(tower, 4)
        assert kept == [2, 1, 1, 0], "none before STI; 0x41 came between the two of 0x40"


def test_interrupts_queued_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    handlers = {0x40: guest.handler(guest.add(0)), 0x41: guest.handler(guest.add(1)), 0x42: guest.handler(guest.add(2))}
    code = guest.STI + guest.NOP + guest.out(PORT, 0x42414041, 4) + b"".join(guest.until(i) for i in range(3))
    image = guest.with_handlers(code + guest.CLI + guest.done(), handlers)
    with Tower(spec_of(tmp_path, image, [mine("Interrupting")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 3) == [1, 2, 1]


def test_an_interrupt_comes_between_accesses_that_c_serves(tmp_path: Path) -> None:
    code = guest.out(PORT, 0x40) + guest.STI + guest.repeat(50, guest.out(0x80, 1)) + guest.CLI + guest.done()
    with Tower(spec_of(tmp_path, guest.with_handlers(code, COUNT_40), [mine("Interrupting")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [1]


def test_an_interrupt_beside_an_exception_is_not_lost(tmp_path: Path) -> None:
    code = guest.STI + guest.NOP + guest.out(PORT + 1, 0x40) + guest.until(0) + guest.CLI + guest.done()
    # the OUT is behind RIP or under it: a second one would queue a second interrupt, so #UD returns behind it
    skip = b"\x48\xc7\x04\x24"  # movq $imm32, (%rsp)
    behind = guest.CODE + 8 + len(guest.STI + guest.NOP + guest.out(PORT + 1, 0x40))
    on_ud = guest.add(1) + skip + behind.to_bytes(4, "little") + guest.IRETQ
    image = guest.with_handlers(code, {0x40: guest.handler(guest.add(0)), 6: on_ud})
    with Tower(spec_of(tmp_path, image, [mine("Interrupting")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 2) == [1, 1]


def test_an_nmi_comes_whether_interrupts_are_on_or_off(tmp_path: Path) -> None:
    code = guest.out(PORT + 2, 0) + guest.NOP * 4 + guest.STI + guest.out(PORT + 2, 0) + guest.NOP * 4 + guest.done()
    image = guest.with_handlers(code, {2: guest.handler(guest.add(0))})
    with Tower(spec_of(tmp_path, image, [mine("Interrupting")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [2]


def test_a_halted_guest_is_woken_by_an_interrupt_from_another_thread(tmp_path: Path) -> None:
    halted = guest.STI + guest.HLT + guest.load(guest.RESULTS) + guest.keep(1) + guest.done()
    image = guest.with_handlers(guest.out(PORT, 0x40) + halted, COUNT_40)
    started = time.monotonic()
    with Tower(spec_of(tmp_path, image, [mine("Waking")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 2) == [1, 1], "it did not go on before the interrupt"
    assert time.monotonic() - started >= 0.1


def test_an_interrupt_that_was_taken_does_not_end_a_later_halt(tmp_path: Path) -> None:
    """Queueing one also kicks; what was left of the kick must not wake the next HLT."""
    code = guest.STI + guest.NOP
    for wanted in (1, 2):
        code += guest.out(PORT + 0x10, 0x40) + guest.until(0)  # the first one is seen while running
        code += guest.out(PORT, 0x40) + guest.HLT + guest.load(guest.RESULTS) + guest.keep(wanted)
    image = guest.with_handlers(code + guest.done(), COUNT_40)
    with Tower(spec_of(tmp_path, image, [mine("Waking"), mine("AtOnce")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 3) == [4, 2, 4]


class AtOnce(Hypervisor):
    @on_io(PORT + 0x10)
    def access(self, event: Event) -> Result:
        self.guest.interrupt(event.value)
        return Result.handled()


def test_a_guest_that_halts_with_interrupts_off_is_dead(tmp_path: Path) -> None:
    with Tower(spec_of(tmp_path, guest.HLT)) as tower:
        result = run_in(tower)
    assert result.status == 255
    assert result.message.startswith("guest at L1 died: it halted with interrupts off, so nothing can wake it\n")


def test_a_pc_has_lines_and_takes_no_vectors(tmp_path: Path) -> None:
    with Tower(spec_of(tmp_path, guest.done(), ["logger"], machine="pc")) as tower:
        with pytest.raises(ValueError, match=r"machine pc takes interrupts by its irqchip's lines"):
            tower.hypervisors[0].guest.interrupt(0x40)
        assert tower.engine.irqchip_fd >= 0
    with Tower(spec_of(tmp_path, guest.done(), ["logger"])) as tower:
        with pytest.raises(ValueError, match="interrupt vector 256 is not within 0 to 255"):
            tower.hypervisors[0].guest.interrupt(256)
        tower.hypervisors[0].guest.line(4, True)
        assert tower.engine.irqchip_fd == -1
