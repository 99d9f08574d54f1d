"""A batch of completed instructions ends before one that someone else is to see."""

from pathlib import Path

import pytest
from guest_code import POPCNT, done, keep, rax, rbx, results, run_in, spec_of, with_handlers

from nestvmm.hypervisors import HANDLED, Event, Hypervisor, Result, on_instruction
from nestvmm.nesting import LevelSpec, Tower

pytestmark = pytest.mark.kvm

# movq %rbx, %xmm0; mulsd %xmm0, %xmm0, after CR4.OSFXSR: KVM-PVM emulates neither MULSD nor POPCNT at CPL 0
ENABLE_SSE = b"\x0f\x20\xe0\x0d\x00\x02\x00\x00\x0f\x22\xe0"
MULSD = b"\x66\x48\x0f\x6e\xc3\xf2\x0f\x59\xc0"
HERE = f"{Path(__file__)}:"


class Counting(Hypervisor):
    """Says that POPCNT counts 99."""

    def __init__(self) -> None:
        self.seen = 0

    @on_instruction(b"\xf3\x0f\xb8")
    def popcnt(self, event: Event) -> Result:
        self.seen += 1
        regs = self.guest.regs
        regs.rax = 99
        self.guest.set_regs(regs)
        self.guest.skip(len(POPCNT))
        return HANDLED


def fails_to_emulate(folder: Path) -> bool:
    """Whether this host's KVM hands MULSD over: one that does not runs all of this on the processor."""
    with Tower(spec_of(folder, ENABLE_SSE + rbx(0x4000000000000000) + MULSD + done())) as tower:
        run_in(tower)
        return int(tower.engine.vcpu.exits) > 1


def test_a_level_sees_its_instruction_behind_a_completed_one(tmp_path: Path) -> None:
    if not fails_to_emulate(tmp_path):
        pytest.skip("this KVM emulates no instruction at CPL 0, so none of them is completed")
    code = ENABLE_SSE + rbx(0x4000000000000000) + (MULSD + POPCNT) * 3 + keep(0) + done()
    with Tower(spec_of(tmp_path, code, [LevelSpec(HERE + "Counting"), LevelSpec("logger")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [99]
        counting = tower.hypervisors[0]
        assert isinstance(counting, Hypervisor)
        assert vars(counting)["seen"] == 3


def test_a_hidden_instruction_is_undefined_behind_a_completed_one(tmp_path: Path) -> None:
    if not fails_to_emulate(tmp_path):
        pytest.skip("this KVM emulates no instruction at CPL 0, so none of them is completed")
    code = with_handlers(
        ENABLE_SSE + rbx(0x4000000000000000) + MULSD + POPCNT + done(1), {6: rax(6) + keep(0) + done()}
    )
    level = LevelSpec("logger", expose=("-popcnt",))
    with Tower(spec_of(tmp_path, code, [level])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [6]
