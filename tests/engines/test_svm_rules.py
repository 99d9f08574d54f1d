"""The rules of VMRUN: a block that breaks one is told that one, and `nv_svm_valid` says no to exactly those."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nested_world import ENTRIES, sound_block

from nestvmm._native import ffi, lib
from nestvmm.engines.svm_rules import broken_rules, limit
from nestvmm.kvm import CpuidEntry

NO_LONG_MODE = [CpuidEntry(function=0x80000001, edx=1 << 11 | 1 << 20), ENTRIES[1]]
VALID, EXCEPTION, NMI_VECTOR = 1 << 31, 3 << 8, 2


def limits(entries: list[CpuidEntry] = ENTRIES) -> Any:
    limits = ffi.new("struct nv_svm_limits *")
    limit(limits, entries)
    return limits


def paged_block() -> Any:
    block = sound_block()
    block.nested_paging = 1
    return block


def field(name: str, value: int) -> Callable[[Any], None]:
    return lambda block: setattr(block, name, value)


def no_vmrun(block: Any) -> None:
    block.intercept[4] = 0


def two_sizes(block: Any) -> None:
    block.cs.attributes |= 0x400


BREAKS: dict[str, Callable[[Any], None]] = {
    "VMRUN is not intercepted": no_vmrun,
    "the ASID is 0": field("asid", 0),
    "the I/O permissions map lies beyond the last physical address": field("iopm", (1 << 40) - 0x2000),
    "the MSR permissions map lies beyond the last physical address": field("msrpm", (1 << 40) - 0x1000),
    "TLB_CONTROL is none of 0, 1, 3 and 7": field("tlb_control", 2),
    "the nested page tables lie beyond the last physical address": field("nested_cr3", 1 << 40),
    "G_PAT has a type of memory that there is not": field("guest_pat", 2),
    "the injected event is of no type that there is": field("event_injection", VALID | 1 << 8),
    "the injected exception's vector is no exception's": field("event_injection", VALID | EXCEPTION | NMI_VECTOR),
    "the injected exception is #BR, which 64-bit code cannot raise": field("event_injection", VALID | EXCEPTION | 5),
    "EFER.SVME is clear": field("efer", 0x500),
    "EFER has reserved bits: 0x4002": field("efer", 0x5502),
    "CR0.NW is set and CR0.CD is clear": field("cr0", 0xA0000031),
    "CR0 has bits above 31": field("cr0", 1 << 32 | 0x80000031),
    "CR3 lies beyond the last physical address": field("cr3", 1 << 40),
    "CR4 has reserved bits: 0x10000000000": field("cr4", 1 << 40 | 0x20),
    "DR6 has bits above 31": field("dr6", 1 << 32),
    "DR7 has bits above 31": field("dr7", 1 << 32),
    "EFER.LME and CR0.PG are set and CR4.PAE is clear": field("cr4", 0),
    "EFER.LME and CR0.PG are set and CR0.PE is clear": field("cr0", 0x80000030),
    "CS.L and CS.D are both set in long mode": two_sizes,
}


def test_a_sound_block_breaks_none() -> None:
    assert broken_rules(limits(), paged_block()) == []
    assert lib.nv_svm_valid(limits(), paged_block())


def test_every_rule_is_here() -> None:
    """One more is of another processor."""
    assert len(BREAKS) + 1 == lib.NV_SVM_RULES


def test_long_mode_where_there_is_none_breaks_a_rule() -> None:
    block = paged_block()
    block.efer = 0x1400
    assert broken_rules(limits(NO_LONG_MODE), block) == ["EFER.LMA is set and the processor has no long mode"]
    assert broken_rules(limits(), block) == []


@pytest.mark.parametrize("name", ["iopm", "msrpm"])
def test_a_map_that_wraps_around_lies_beyond(name: str) -> None:
    block = paged_block()
    setattr(block, name, (1 << 64) - 0x1000)
    assert [rule.split(" permissions")[1] for rule in broken_rules(limits(), block)] == [
        " map lies beyond the last physical address"
    ]


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_is_told(rule: str) -> None:
    block = paged_block()
    BREAKS[rule](block)
    assert broken_rules(limits(), block) == [rule]
    assert not lib.nv_svm_valid(limits(), block)


# In 64-bit code; #BR comes of BOUND alone, which there is none of.
EXCEPTIONS = {0, 1, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 21, 28, 29, 30}


@pytest.mark.parametrize(
    ("kind", "vectors"),
    [(0, range(256)), (1, ()), (2, range(256)), (3, EXCEPTIONS), (4, range(256)), (5, ()), (6, ()), (7, ())],
)
@pytest.mark.parametrize("with_error", [0, 1 << 11 | 0x5A8 << 32])
def test_these_events_may_be_injected(kind: int, vectors: Collection[int], with_error: int) -> None:
    """AMD APM vol. 2, 15.20; an event that is not marked valid may be any."""
    block = paged_block()
    sound = []
    for vector in range(256):
        block.event_injection = kind << 8 | vector | with_error
        assert lib.nv_svm_valid(limits(), block)
        block.event_injection |= VALID
        if lib.nv_svm_valid(limits(), block):
            sound.append(vector)
    assert sound == sorted(vectors)


@pytest.mark.parametrize(("attributes", "efer"), [(0xC9B, 0x1500), (0xA9B, 0x1000)])
def test_br_may_be_injected_into_other_code(attributes: int, efer: int) -> None:
    """Of compatibility mode, and of legacy mode."""
    block = paged_block()
    block.cs.attributes, block.efer = attributes, efer
    block.event_injection = VALID | EXCEPTION | 5
    assert broken_rules(limits(), block) == []


@given(st.sets(st.sampled_from(sorted(BREAKS))))
def test_a_block_is_valid_if_no_rule_says_otherwise(rules: set[str]) -> None:
    block = paged_block()
    for rule in sorted(rules):
        BREAKS[rule](block)
    assert bool(lib.nv_svm_valid(limits(), block)) == (not broken_rules(limits(), block))
