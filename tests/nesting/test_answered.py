"""What levels above an image make of an answer to CPUID."""

from __future__ import annotations

from typing import Any

import pytest

from nestvmm.errors import HypervisorError
from nestvmm.hypervisors import Hypervisor
from nestvmm.hypervisors.cpuid_policy import CpuidPolicy
from nestvmm.kvm import CpuidEntry, Regs
from nestvmm.nesting.answered import amend_answer, asking_claims


class Answers:
    """As an engine, after a CPUID of `leaf` that was answered."""

    def __init__(self, levels: int, leaf: int, subleaf: int, **regs: int) -> None:
        self.asked = levels, leaf, subleaf
        self.now = Regs(**regs)
        self.changes: dict[str, int] = {}

    def answered_cpuid(self) -> tuple[int, int, int]:
        return self.asked

    def regs(self) -> Regs:
        return self.now

    def change_regs(self, changes: dict[str, int]) -> None:
        self.changes = changes

    def cpuid_asker(self, level: int) -> Any:
        return f"asks for {level}"


class Keeping(Hypervisor):
    """Shows what it was given, and gives nothing on."""

    def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        self.given = list(entries)
        return []


def amend(engine: Answers, *hypervisors: Hypervisor, indexed: frozenset[int] = frozenset()) -> dict[str, int]:
    amend_answer(engine, hypervisors, indexed)  # type: ignore[arg-type]
    return engine.changes


def test_only_levels_that_asked_have_a_turn_the_lowest_first() -> None:
    policies = [CpuidPolicy(set=f"1.ecx.{bit}") for bit in (0, 1, 2)]
    engine = Answers(0b1010, 1, 77, rax=(1 << 40) | 5, rbx=6, rcx=0x80, rdx=8)
    assert amend(engine, *policies) == {"rax": 5, "rbx": 6, "rcx": 0x85, "rdx": 8}


def test_the_subleaf_counts_where_a_leaf_has_some() -> None:
    one = Keeping()
    amend(Answers(2, 7, 3), one)
    assert [(entry.function, entry.index, entry.flags) for entry in one.given] == [(7, 0, 0)]
    amend(Answers(2, 7, 3), one, indexed=frozenset({7}))
    assert [(entry.function, entry.index, entry.flags) for entry in one.given] == [(7, 3, 1)]


def test_a_leaf_that_is_taken_away_is_zeros() -> None:
    changes = amend(Answers(2, 1, 0, rax=1, rbx=2, rcx=3, rdx=4), Keeping())
    assert changes == {"rax": 0, "rbx": 0, "rcx": 0, "rdx": 0}


def test_a_leaf_that_is_added_takes_the_place_of_the_answer() -> None:
    changes = amend(Answers(2, 0x40000000, 0, rax=9, rbx=9, rcx=9, rdx=9), CpuidPolicy(signature="abcdefghijkl"))
    words = [int.from_bytes(part, "little") for part in (b"abcd", b"efgh", b"ijkl")]
    assert changes == {"rax": 0x40000000, "rbx": words[0], "rcx": words[1], "rdx": words[2]}


def test_what_a_hypervisor_does_wrong_is_its_own() -> None:
    class Broken(Hypervisor):
        def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
            raise KeyError(entries[0].function)

    class Silent(Hypervisor):
        def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
            return None  # type: ignore[return-value]

    with pytest.raises(HypervisorError, match=r"L1 Broken.*cpuid\(\)"):
        amend(Answers(2, 1, 0), Broken())
    with pytest.raises(HypervisorError, match=r"L1 Silent answered None in cpuid\(\); it must return a list"):
        amend(Answers(2, 1, 0), Silent())


def test_overriding_levels_above_the_lowest_image_ask() -> None:
    levels = [CpuidPolicy(), Hypervisor(), CpuidPolicy(), Hypervisor(), CpuidPolicy()]
    claims = asking_claims(Answers(0, 0, 0), levels, 2)  # type: ignore[arg-type]
    assert [(claim.level, claim.handler, claim.who) for claim in claims] == [
        (3, "asks for 3", "CpuidPolicy"),
        (5, "asks for 5", "CpuidPolicy"),
    ]
