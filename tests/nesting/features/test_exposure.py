"""Who sees what, worked out over a made-up offer."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvmm.errors import UsageError
from nestvmm.kvm import CpuidEntry
from nestvmm.nesting import GuestSpec, LevelSpec, TowerSpec
from nestvmm.nesting.features.catalog import CATALOG, find_feature
from nestvmm.nesting.features.exposure import Exposure
from nestvmm.nesting.features.feature import OUR_LEAF, CpuidBit, MsrBit
from nestvmm.nesting.features.offer import Offer
from nestvmm.nesting.features.registry import EMULATORS
from nestvmm.nesting.features.request import Request, requests

CX16 = 1 << 13
ARCH_CAPABILITIES = 0x10A


def offer() -> Offer:
    """Hardware with cx16, mds_no and rdcl_no, and L0 with msr_block."""
    return Offer(
        [CpuidEntry(0, eax=7), CpuidEntry(1, ecx=CX16)],
        {ARCH_CAPABILITIES: 0x80000021},
        frozenset({"cx16", "mds_no", "rdcl_no"}),
        frozenset({"msr_block"}),
        frozenset(),
        {"movbe": "made up"},
    )


def expose(*wanted: Request) -> Exposure:
    """A tower of as many levels as there are requests, whose hypervisors leave CPUID alone."""
    exposure = Exposure(offer(), wanted)
    for _ in wanted[1:]:
        exposure.pass_on(exposure.entries, "Nobody")
    return exposure


def test_levels_pass_on_what_they_see() -> None:
    exposure = expose({}, {}, {})
    assert exposure.height == 3
    for level in range(4):
        assert exposure.seen(level) == {"cx16", "mds_no", "rdcl_no", "msr_block"}
    leaves = {entry.function: entry for entry in exposure.entries}
    assert leaves[1].ecx == CX16
    assert (leaves[OUR_LEAF].eax, leaves[OUR_LEAF + 1].eax) == (OUR_LEAF + 1, 1)


def test_what_a_level_hides_is_gone_for_all_above() -> None:
    exposure = expose({}, {"cx16": False}, {})
    assert exposure.levels("cx16") == {1}
    assert {entry.function: entry for entry in exposure.entries}[1].ecx == 0
    gone = exposure.gone("cx16", 3)
    assert gone is not None
    assert (gone.level, gone.text) == (1, "L1 hides it from the levels above it")
    assert exposure.gone("cx16", 1) is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (({}, {"cx16": False}, {"cx16": True}), "expose L2:+cx16: L1 hides it from the levels above it"),
        (({"cx16": False}, {}, {"cx16": True}), "expose L2:+cx16: L0 hides it from the levels above it"),
        (({}, {"movbe": True}), "expose L1:+movbe: L0 does not have it: made up"),
        (({}, {"aes": True}), "expose L1:+aes: L0 does not have it: the hardware or its KVM lacks it, and L0 has no"),
    ],
)
def test_an_impossible_exposure_names_the_level_that_breaks_the_chain(
    wanted: tuple[Request, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        expose(*wanted)
    assert str(caught.value).startswith(message)


def test_a_bit_that_a_hypervisor_clears_is_gone_and_one_that_it_sets_is_its_own_business() -> None:
    exposure = Exposure(offer(), [{}, {}, {}])
    exposure.pass_on([CpuidEntry(1, ecx=1 << 25), *exposure.entries[2:]], "Policy")
    assert exposure.levels("cx16") == {1}
    assert exposure.levels("aes") == frozenset()
    assert {entry.function: entry for entry in exposure.entries}[1].ecx == 1 << 25
    gone = exposure.gone("cx16", 2)
    assert gone is not None
    assert gone.text == "L1 Policy clears its CPUID bit for the levels above it"


def test_a_level_may_ask_for_what_its_own_hypervisor_clears() -> None:
    exposure = Exposure(offer(), [{}, {"cx16": True}])
    exposure.pass_on([CpuidEntry(1, ecx=0), *exposure.entries[2:]], "Policy")
    assert exposure.levels("cx16") == {1, 2}
    assert {entry.function: entry for entry in exposure.entries}[1].ecx == CX16


def test_feature_msrs_lose_the_bits_of_what_is_hidden() -> None:
    exposure = expose({}, {"mds_no": False}, {"rdcl_no": False})
    assert exposure.msrs(1) == {}
    assert exposure.msrs(2) == {ARCH_CAPABILITIES: 0x80000001}
    assert exposure.msrs(3) == {ARCH_CAPABILITIES: 0x80000000}


def spec(levels: tuple[tuple[str, ...], ...], expose: tuple[str, ...] = ()) -> TowerSpec:
    return TowerSpec(GuestSpec(Path()), tuple(LevelSpec("logger", expose=one) for one in levels), expose=expose)


def test_requests_are_those_of_the_levels_and_then_the_towers() -> None:
    wanted = requests(spec((("+cx16", "-aes"), ()), ("L1:+aes,-avx", "l0:-nx")))
    assert wanted == [{"nx": False}, {"cx16": True, "aes": True, "avx": False}, {}]


@pytest.mark.parametrize(
    ("levels", "expose", "message"),
    [
        (((),), ("L1:popcnt",), "expose 'L1:popcnt': expected +feature or -feature, not 'popcnt'"),
        (((),), ("popcnt",), "expose 'popcnt': expected Ln:+feature,-feature, such as L1:-popcnt"),
        (((),), ("L1:",), "expose 'L1:': expected Ln:+feature,-feature"),
        (((),), ("L1:+aes,",), "expose 'L1:+aes,': expected +feature or -feature, not ''"),
        (
            ((),),
            ("L2:+aes",),
            "expose 'L2:+aes': L2 is no hypervisor of this tower, so nothing is above it; it has L0 ",
        ),
        (
            (),
            ("L1:+aes",),
            "expose 'L1:+aes': L1 is no hypervisor of this tower, so nothing is above it; it has L0 only",
        ),
        (((),), ("L1:+popcn",), "expose 'L1:+popcn': unknown feature 'popcn'; did you mean popcnt?"),
        (((),), ("L1:+zzzzzz",), "expose 'L1:+zzzzzz': unknown feature 'zzzzzz'; `nestvmm features` lists all"),
        ((("+popcn",),), (), "L1 expose '+popcn': unknown feature 'popcn'; did you mean popcnt?"),
        ((("",),), (), "L1 expose '': expected +feature or -feature, not ''"),
    ],
)
def test_wrong_requests(levels: tuple[tuple[str, ...], ...], expose: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        requests(spec(levels, expose))
    assert str(caught.value).startswith(message)


def test_every_feature_has_a_bit_of_its_own() -> None:
    assert len({feature.shown for feature in CATALOG.values()}) == len(CATALOG)
    for name, feature in CATALOG.items():
        assert find_feature(name) is feature
        assert feature.name == name
        assert not feature.within or feature.within in CATALOG
        assert isinstance(feature.shown, CpuidBit | MsrBit)


def test_every_emulator_is_of_a_feature_in_the_catalogue() -> None:
    assert EMULATORS.keys() <= CATALOG.keys()
    for name, emulator in EMULATORS.items():
        assert emulator.feature == name
        assert emulator.scopes


def test_a_bit_in_a_leaf_that_is_missing() -> None:
    entries = [CpuidEntry(0, eax=1)]
    bit = CpuidBit(7, 0, "ebx", 3)
    bit.put(entries, on=False)
    assert entries == [CpuidEntry(0, eax=1)]
    bit.put(entries, on=True)
    assert bit.is_set(entries, {})
    assert entries[0].eax == 7
