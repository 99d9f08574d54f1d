"""What the levels claim and the user designates, checked against an engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from nestvmm.engines import DirectEngine, MsrRange, SvmEngine, VmxEngine
from nestvmm.engines.direct import debug_vectors
from nestvmm.engines.msr_filter import msr_ranges
from nestvmm.errors import HostError, UsageError
from nestvmm.hypervisors import Direction, Event, ExitReason, Hypervisor, Result, on, on_debug, on_io, on_mmio, on_rdmsr
from nestvmm.nesting.designation import QUALIFIER_MAX, Scope
from nestvmm.nesting.memory import MemoryMap
from nestvmm.nesting.policy import Policy
from nestvmm.nesting.spec import GuestSpec, LevelSpec, TowerSpec
from nestvmm.nesting.tower_maps import TowerMaps
from nestvmm.x86.exit_reason import REASONS


class Quiet(Hypervisor):
    pass


class Ports(Hypervisor):
    @on_io(0x60, 5, direction=Direction.READ)
    def ports(self, event: Event) -> Result:
        return Result.handled()


class Takes(Hypervisor):
    """Takes what is designated to it."""

    def designated(self, event: Event) -> Result:
        return Result.handled()


class Wants(Hypervisor):
    def __init__(self, *claims: Any) -> None:
        self._claims = claims

    def claims(self) -> Iterable[Any]:
        for reason, first, last in self._claims:
            yield reason, first, last, None, self.handle

    def handle(self, event: Event) -> Result:
        return Result.handled()


class Mixed(Hypervisor):
    @on_mmio(0xD0000000, 0x1000)
    @on_debug(1)
    @on_rdmsr(0x10, 0x1F)
    def many(self, event: Event) -> Result:
        return Result.handled()

    @on(ExitReason.WRMSR)
    def all_writes(self, event: Event) -> Result:
        return Result.handled()


def policy(*hypervisors: Hypervisor, designate: tuple[str, ...] = ()) -> Policy:
    levels = tuple(LevelSpec("none") for _ in hypervisors)
    return Policy(TowerSpec(GuestSpec(Path("a")), levels, designate), hypervisors)


def test_claims_carry_their_level_and_who_made_them() -> None:
    found = policy(Quiet(), Ports()).claims
    assert [(claim.level, claim.scope, claim.who) for claim in found] == [
        (2, Scope(ExitReason.IO, 0x60, 0x64, Direction.READ), "Ports")
    ]


NO_ENGINE = "no engine can, as `nestvmm reasons` explains"


@pytest.mark.parametrize("reason", sorted(set(ExitReason) - {r for r in ExitReason if "direct" in REASONS[r].engines}))
def test_what_direct_cannot_trap_is_refused_naming_the_engine_that_could(reason: ExitReason) -> None:
    able = sorted(REASONS[reason].engines)
    hint = f"the {' and '.join(able)} engine{'s' if len(able) > 1 else ''} could" if able else NO_ENGINE
    with pytest.raises(HostError) as caught:
        policy(Quiet(), Wants((reason, 0, 5))).check(DirectEngine, "bare")
    assert str(caught.value) == (
        f"L2 Wants wants {reason.label}, which the direct engine cannot trap on machine bare; {hint}"
    )


@pytest.mark.parametrize("reason", [r for r in ExitReason if "direct" in REASONS[r].engines])
def test_what_direct_traps_is_accepted(reason: ExitReason) -> None:
    policy(Wants((reason, 0, 5))).check(DirectEngine, "bare")


def test_hlt_on_a_pc_is_refused_with_the_machine_that_could() -> None:
    with pytest.raises(HostError) as caught:
        policy(Wants((ExitReason.HLT, 0, QUALIFIER_MAX))).check(DirectEngine, "pc")
    assert str(caught.value) == (
        "L1 Wants wants hlt, which the direct engine cannot trap on machine pc; "
        "with machine = bare it could, and the svm and vmx engines could"
    )


def test_a_designation_to_a_level_that_handles_it_is_only_a_ceiling() -> None:
    one = policy(Ports(), Quiet(), designate=("io:0x62=L1",))
    assert len(one.claims) == len(one.ceilings) == 1


def test_a_designation_gives_a_claim_to_a_level_that_takes_anything() -> None:
    one = policy(Takes(), designate=("io:0x62:w=L1", "hlt=L1"))
    assert [claim.scope for claim in one.claims] == [
        Scope(ExitReason.IO, 0x62, 0x62, Direction.WRITE),
        Scope(ExitReason.HLT),
    ]


def test_a_designation_to_l0_needs_no_handler() -> None:
    assert policy(Ports(), designate=("hlt=L0",)).ceilings[0].level == 0


@pytest.mark.parametrize("text", ["io:0x65=L1", "io:0x62:w=L1", "hlt=L1", "mmio:0x60=L1"])
def test_a_designation_to_a_level_without_a_handler_is_refused(text: str) -> None:
    name, _, qualifier = text.removesuffix("=L1").partition(":")
    with pytest.raises(UsageError) as caught:
        policy(Ports(), designate=(text,))
    assert str(caught.value) == (
        f"designate {name}:{qualifier or '*'} to L1: its hypervisor Ports handles none of that; "
        "declare a handler, or override Hypervisor.designated"
    )


FEATURES = {"svm": ExitReason.SVM_INSTRUCTION, "vmx": ExitReason.VMX_INSTRUCTION}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(
    ("levels", "nesting"),
    [
        ((), None),
        ((0,), None),
        ((1,), None),  # a Python hypervisor's
        ((2,), 2),
        ((5,), 5),
        ((5, 3), 3),
        ((5, 0), None),
    ],
)
def test_which_image_nests_by_itself(feature: str, levels: tuple[int, ...], nesting: int | None) -> None:
    one = policy(Takes(), designate=("hlt=L0", *(f"{feature}-instruction=L{level}" for level in levels)))
    assert one.nesting == ({} if nesting is None else {feature: nesting})
    assert (FEATURES[feature] in one.reasons()) == (nesting is not None or levels == (1,))


@pytest.mark.parametrize(
    ("feature", "engine"), [("svm", DirectEngine), ("svm", VmxEngine), ("vmx", DirectEngine), ("vmx", SvmEngine)]
)
def test_no_image_nests_where_l0_does_not_give_it_the_feature(feature: str, engine: type[DirectEngine]) -> None:
    with pytest.raises(HostError) as caught:
        policy(designate=(f"{feature}-instruction=L1",)).check(engine, "pc")
    assert str(caught.value) == (
        f"designate {feature}-instruction=L1: the {engine.name} engine gives no level {feature.upper()} by software; "
        f"the {feature} engine does"
    )
    policy(designate=(f"{feature}-instruction=L1",)).check({"svm": SvmEngine, "vmx": VmxEngine}[feature], "pc")


def test_what_the_engine_must_trap() -> None:
    one = policy(Mixed(), Wants((ExitReason.RDMSR, 5, 0xFFFFFFFFFF), (ExitReason.MMIO, 0, QUALIFIER_MAX)))
    assert one.holes() == [(1, 0xD0000000, 0xD0000FFF)], "who wants all of it watches, and takes no memory away"
    assert debug_vectors(one.scopes(2)) == {1}
    assert sorted(msr_ranges(one.scopes(2)), key=lambda msr: (msr.first, msr.last)) == [
        MsrRange(0, 0xFFFFFFFF, read=False, write=True),
        MsrRange(5, 0xFFFFFFFF, read=True, write=False),
        MsrRange(0x10, 0x1F, read=True, write=False),
    ]


def test_all_debug_vectors() -> None:
    assert debug_vectors(policy(Wants((ExitReason.DEBUG, 0, QUALIFIER_MAX))).scopes(2)) == {1, 3}
    assert debug_vectors(policy(Wants((ExitReason.DEBUG, 2, 2))).scopes(2)) == frozenset()


def test_the_table_has_the_levels_claims_above_l0s() -> None:
    one = policy(Ports())
    zero = policy(Wants((ExitReason.IO, 0, 0xFFFF))).claims[0]
    below = type(zero)(0, zero.scope, zero.handler, "L0")
    table = one.table([below], TowerMaps(4096, {1: MemoryMap.identity()}, (2,)))
    assert [claim.level for claim in table.route(ExitReason.IO, 0x62)] == [1, 0]
