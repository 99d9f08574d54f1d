"""Memory maps that change while the guest runs, under the direct engine: by KVM's memory slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest_code import done, keep, load, out, results, run_in, spec_of, store

from nestvmm.errors import HostError
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Hypervisor, Result, Rights, on, on_io
from nestvmm.nesting import LevelSpec, RunResult, Tower

pytestmark = pytest.mark.kvm

HERE = f"{Path(__file__)}:"
PAGE, AREA = 0x1000, 4 << 20
ONES = (1 << 64) - 1


class Mapper(Hypervisor):
    """OUT to port 0x5000 maps the area to the page of that number, to 0x5001 unmaps it, to 0x5002 protects it."""

    @on_io(0x5000)
    def map(self, event: Event) -> Result:
        self.guest.map(AREA, PAGE, AREA + event.value * PAGE)
        return HANDLED

    @on_io(0x5001)
    def unmap(self, _: Event) -> Result:
        self.guest.unmap(AREA, PAGE)
        return HANDLED

    @on_io(0x5002)
    def protect(self, _: Event) -> Result:
        self.guest.protect(AREA, PAGE, Rights.READ)
        return HANDLED


class Claiming(Hypervisor):
    @on(ExitReason.NESTED_PAGE_FAULT)
    def fault(self, _: Event) -> Result:
        return HANDLED


def test_the_guest_sees_each_change(tmp_path: Path) -> None:
    code = b"".join(store(AREA + number * PAGE, 0x100 + number) for number in (0, 1, 2))
    code += out(0x5000, 2) + load(AREA) + keep(0) + store(AREA, 0x55)
    code += out(0x5001, 0) + load(AREA) + keep(1)
    code += out(0x5000, 1) + load(AREA) + keep(2)
    code += out(0x5002, 0) + store(AREA, 0x66) + load(AREA) + keep(3) + load(AREA + 2 * PAGE) + keep(4)
    levels = [LevelSpec(HERE + "Mapper"), LevelSpec("logger")]
    with Tower(spec_of(tmp_path, code + done(), levels, memory=8 << 20, engine="direct")) as tower:
        assert run_in(tower) == RunResult(0)
        assert results(tower, 5) == [0x102, ONES, 0x101, 0x101, 0x55]


def test_faults_need_a_switcher_engine(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, done(), [LevelSpec(HERE + "Claiming")], engine="direct")
    with pytest.raises(HostError, match="wants nested-page-fault, which the direct engine cannot trap"):
        Tower(spec)
