"""The second method of nested virtualization, sentence by sentence, on real hardware.

Detect the first set of features (the hardware's) and the second set (what L0 emulates); expose from both to level 1;
level 1 detects them, enables them for level 2, and so on; an event of an exposed feature that the hardware lacks is
emulated in L0 without a switch into the exposing hypervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import guest_code as guest
import pytest
from guest_code import Tower, results, run_in, spec_of

from nestvmm.engines.completion.completer import processor
from nestvmm.errors import UsageError
from nestvmm.hypervisors import Event, Hypervisor, Result, on_rdmsr
from nestvmm.kvm import CpuidEntry, Kvm
from nestvmm.nesting import Account, Clock, LevelSpec, TowerSpec
from nestvmm.nesting.features.catalog import CATALOG
from nestvmm.nesting.features.feature import OUR_LEAF, CpuidBit
from nestvmm.nesting.features.msr_block import ID, LEVEL, SCRATCH

pytestmark = pytest.mark.kvm

NESTVMM = int.from_bytes(b"nestvmm", "little")
CRC32 = b"\xf2\x48\x0f\x38\xf1\xc3"  # crc32q %rbx, %rax
UD, GP = 6, 13
CX16 = 1 << 13


class Watching(Hypervisor):
    """Remembers the CPUID that its level sees."""

    def __init__(self) -> None:
        self.saw: list[CpuidEntry] = []

    def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        self.saw = [replace_entry(entry) for entry in entries]
        return entries


class OwnMsr(Watching):
    """Answers one MSR of the block itself."""

    @on_rdmsr(ID)
    def identity(self, event: Event) -> Result:
        return Result.read(self.guest.level)


def replace_entry(entry: CpuidEntry) -> CpuidEntry:
    return CpuidEntry(*(getattr(entry, name) for name in CpuidEntry.__match_args__))


def shows(entries: Sequence[CpuidEntry], name: str) -> bool:
    return CATALOG[name].shown.is_set(entries, {})


def tower(
    folder: Path, code: bytes, height: int, expose: Sequence[str] = (), kind: type[Hypervisor] = Watching
) -> TowerSpec:
    """`code` at level `height` above hypervisors of this kind; #UD and #GP end the run with their vector."""
    image = guest.with_handlers(code + guest.done(), {UD: guest.done(UD), GP: guest.done(GP)})
    level = LevelSpec(f"{__file__}:{kind.__name__}")
    return replace(spec_of(folder, image, [level] * (height - 1)), expose=tuple(expose))


def account(tower: Tower, clock: Clock) -> dict[tuple[int, str, str], int]:
    """How many events by (level, who, reason), the debug exit's aside."""
    rows = Account.of(tower, clock, 1.0).rows
    return {(row.level, row.who, row.reason): row.count for row in rows if row.who != "debug exit"}


def need_emulated(tower: Tower, name: str) -> None:
    offer = tower.exposure.offer
    if name in offer.first or name in offer.runs:
        pytest.skip(f"this KVM has {name} itself")
    assert offer.has(name)


READ_BLOCK = guest.rdmsr(ID) + guest.keep(0) + guest.rdmsr(LEVEL) + guest.keep(1)
COUNT = guest.rbx(0x123456789ABCDEF0) + guest.POPCNT + guest.keep(0)


def test_l0_detects_the_first_set_the_hardwares(tmp_path: Path) -> None:
    with Kvm() as kvm:
        entries = kvm.get_supported_cpuid()
    expected = {
        name
        for name, feature in CATALOG.items()
        if isinstance(feature.shown, CpuidBit)
        for entry in entries
        if (entry.function, entry.index) == (feature.shown.leaf, feature.shown.subleaf)
        and getattr(entry, feature.shown.register) >> feature.shown.bit & 1
    }
    with Tower(tower(tmp_path, b"", 1)) as one:
        first = {name for name in one.exposure.offer.first if isinstance(CATALOG[name].shown, CpuidBit)}
    assert first - {"crc32"} == expected
    assert {"nx", "syscall", "cx16"} <= first
    assert ("crc32" in first) == ("sse4_2" in expected)


def test_l0_detects_the_second_set_what_it_emulates(tmp_path: Path) -> None:
    with Tower(tower(tmp_path, b"", 1)) as one:
        offer = one.exposure.offer
        assert "msr_block" in offer.second - offer.first
        assert all(offer.why_not(name) for name in offer.lacks)
        assert offer.second & offer.lacks.keys() == set()


def test_features_of_both_sets_are_exposed_to_level_1(tmp_path: Path) -> None:
    code = guest.cpuid(1) + guest.keep_all(0) + guest.cpuid(OUR_LEAF + 1) + guest.keep_all(4) + guest.cpuid(OUR_LEAF)
    with Tower(tower(tmp_path, code + guest.keep_all(8), 1)) as one:
        assert run_in(one).status == 0
        seen = results(one, 12)
    assert seen[2] & CX16
    assert seen[4] & 1, "msr_block"
    assert seen[8] == OUR_LEAF + 1
    assert b"".join(word.to_bytes(4, "little") for word in (seen[9], seen[10], seen[11])) == b"nestvmmL0\0\0\0"


def test_level_1_detects_them(tmp_path: Path) -> None:
    with Tower(tower(tmp_path, b"", 2)) as two:
        level1: Any = two.hypervisors[0]
        assert shows(level1.saw, "cx16")
        assert shows(level1.saw, "msr_block")
        assert two.exposure.seen(1) == two.exposure.offer.first | two.exposure.offer.second


def test_level_1_enables_them_for_level_2(tmp_path: Path) -> None:
    code = guest.cpuid(1) + guest.keep_all(2) + READ_BLOCK
    with Tower(tower(tmp_path, code, 2)) as two:
        assert run_in(two).status == 0
        seen = results(two, 6)
    assert seen[:2] == [NESTVMM, 2]
    assert seen[4] & CX16


@pytest.mark.parametrize("height", [3, 4, 8, 16])
def test_and_so_on(tmp_path: Path, height: int) -> None:
    with Tower(tower(tmp_path, READ_BLOCK, height)) as high:
        assert run_in(high).status == 0
        assert results(high, 2) == [NESTVMM, height]
        assert high.exposure.levels("msr_block") == frozenset(range(1, height + 1))


@pytest.mark.parametrize("height", [2, 3, 8])
def test_an_event_of_an_exposed_feature_that_the_hardware_lacks_is_emulated_in_l0(tmp_path: Path, height: int) -> None:
    expose = [f"L{level}:+msr_block" for level in range(height)]
    scratch = guest.wrmsr(SCRATCH[0], 0x1122334455667788) + guest.rdmsr(SCRATCH[0]) + guest.keep(2)
    clock = Clock()
    with Tower(tower(tmp_path, READ_BLOCK + scratch, height, expose)) as high:
        assert run_in(high).status == 0
        assert results(high, 3) == [NESTVMM, height, 0x1122334455667788]
        assert account(high, clock) == {(0, "msr_block", "rdmsr"): 3, (0, "msr_block", "wrmsr"): 1}


def test_l2_exposes_to_l3_what_the_hardware_lacks_without_a_switch_into_l2(tmp_path: Path) -> None:
    times = 50
    code = guest.repeat(times, guest.rdmsr(ID)) + READ_BLOCK
    clock = Clock()
    with Tower(tower(tmp_path, code, 3, ["L2:+msr_block"])) as three:
        assert "msr_block" not in three.exposure.offer.first
        assert run_in(three).status == 0
        assert results(three, 2) == [NESTVMM, 3]
        assert account(three, clock) == {(0, "msr_block", "rdmsr"): times + 2}
        assert three.engine.vcpu.exits == times + 3, "one exit an event, and the debug exit"


def test_an_instruction_is_emulated_in_l0_without_a_switch_into_l2(tmp_path: Path) -> None:
    times = 50
    code = guest.rbx(0xF0F0) + guest.repeat(times, guest.POPCNT) + guest.keep(0)
    clock = Clock()
    with Tower(tower(tmp_path, code, 3, ["L2:+popcnt"])) as three:
        need_emulated(three, "popcnt")
        assert run_in(three).status == 0
        assert results(three, 1) == [8]
        # where only KVM lacks it the processor does the whole loop behind the first one; else each is an event
        events = 1 if processor(1)[2] >> 23 & 1 else times
        assert account(three, clock) == {(0, "popcnt", "emulation-failure"): events}


def test_an_instruction_of_ours_is_emulated_in_l0(tmp_path: Path) -> None:
    # CRC-32C of "12345678", without the inversions around it
    code = guest.rax(0xFFFFFFFF) + guest.rbx(int.from_bytes(b"12345678", "little")) + CRC32 + guest.keep(0)
    clock = Clock()
    with Tower(tower(tmp_path, code, 2)) as two:
        need_emulated(two, "crc32")
        assert run_in(two).status == 0
        assert results(two, 1) == [crc32c(b"12345678")]
        assert account(two, clock) == {(0, "crc32", "emulation-failure"): 1}


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720, B.4, has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            low = crc & 1 ^ byte >> bit & 1
            crc = crc >> 1 ^ (0x82F63B78 if low else 0)
    return crc


def test_level_1_switches_a_feature_off_and_level_2_cannot_expose_it(tmp_path: Path) -> None:
    for name in ("msr_block", "cx16"):
        with pytest.raises(UsageError) as caught:
            Tower(tower(tmp_path, b"", 4, [f"L1:-{name}", f"L2:+{name}"])).close()
        assert str(caught.value) == f"expose L2:+{name}: L1 hides it from the levels above it"


@pytest.mark.parametrize("height", [2, 3, 4])
def test_what_level_1_switches_off_is_off_for_all_above(tmp_path: Path, height: int) -> None:
    code = guest.cpuid(1) + guest.keep_all(0) + guest.cpuid(OUR_LEAF + 1) + guest.keep_all(4) + guest.rdmsr(ID)
    clock = Clock()
    with Tower(tower(tmp_path, code, height, ["L1:-msr_block,-cx16"])) as high:
        assert run_in(high).status == GP
        seen = results(high, 8)
        assert account(high, clock) == {(0, "msr_block off", "rdmsr"): 1}
        assert high.exposure.levels("msr_block") == {1}
    assert not seen[2] & CX16
    assert not seen[4] & 1


def test_a_hidden_instruction_is_undefined(tmp_path: Path) -> None:
    clock = Clock()
    with Tower(tower(tmp_path, COUNT, 2, ["L1:-popcnt"])) as two:
        need_emulated(two, "popcnt")
        assert run_in(two).status == UD
        assert account(two, clock) == {(0, "popcnt off", "emulation-failure"): 1}


def test_a_level_cannot_expose_what_l0_has_not(tmp_path: Path) -> None:
    with Tower(tower(tmp_path, b"", 1)) as one:
        missing = next(name for name in CATALOG if not one.exposure.offer.has(name))
        why = one.exposure.offer.why_not(missing)
    with pytest.raises(UsageError) as caught:
        Tower(tower(tmp_path, b"", 3, [f"L2:+{missing}"])).close()
    assert str(caught.value) == f"expose L2:+{missing}: L0 does not have it: {why}"


def test_what_a_hypervisors_cpuid_hides_breaks_the_chain_too(tmp_path: Path) -> None:
    levels = [LevelSpec("cpuid-policy", {"clear": "1.ecx.13"}), LevelSpec("logger")]
    spec = spec_of(tmp_path, guest.done(), levels)
    with Tower(spec) as three:
        assert three.exposure.levels("cx16") == {1}
    with pytest.raises(UsageError, match=r"expose L2:\+cx16: L1 CpuidPolicy clears its CPUID bit"):
        Tower(replace(spec, expose=("L2:+cx16",))).close()


def test_a_hypervisor_may_handle_such_an_event_itself(tmp_path: Path) -> None:
    clock = Clock()
    with Tower(tower(tmp_path, READ_BLOCK, 3, kind=OwnMsr)) as three:
        assert run_in(three).status == 0
        assert results(three, 2) == [3, 3]
        assert account(three, clock) == {(2, "OwnMsr", "rdmsr"): 1, (0, "msr_block", "rdmsr"): 1}


def test_msrs_that_a_feature_does_not_define_are_refused(tmp_path: Path) -> None:
    for code in (guest.rdmsr(ID + 2), guest.wrmsr(ID, 1), guest.wrmsr(LEVEL, 1)):
        with Tower(tower(tmp_path, code, 2)) as two:
            assert run_in(two).status == GP
