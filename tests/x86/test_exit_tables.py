"""The tables of all exits: complete, the same in C and in Python, and true to what the neutral reasons' rows claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nestvmm._native import lib
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier
from nestvmm.x86.exit_row import ExitRow, Handlers, Source
from nestvmm.x86.svm_exits import SVM_EXITS
from nestvmm.x86.vmx_exits import VMX_EXITS

FAILURES = {(1 << 64) - number for number in (1, 2, 3, 4)}
# AMD APM vol. 2, table C-1: all codes that it gives a meaning.
SVM_CODES = {*range(0xA7), 0x400, 0x401, 0x402, 0x403, 0x407, 0xF0000000} | FAILURES
# Intel SDM vol. 3, table C-1: 35, 38, 42, 71, 82 and 83 are not used.
VMX_CODES = set(range(86)) - {35, 38, 42, 71, 82, 83}

Native = Callable[[int], Any]
TABLES: list[tuple[str, Mapping[int, ExitRow], Native]] = [
    ("svm", SVM_EXITS, lib.nv_svm_exit_row),
    ("vmx", VMX_EXITS, lib.nv_vmx_exit_row),
]
ROWS = [pytest.param(row, native, id=f"{name} {row.name}") for name, table, native in TABLES for row in table.values()]

# Where a reason's qualifier may come from.
SOURCES = {
    Qualifier.NONE: {Source.NOTHING},
    Qualifier.PORT: {Source.PORT},
    Qualifier.MSR: {Source.ECX, Source.INFORMATION},
    Qualifier.PHYSICAL: {Source.PHYSICAL},
    Qualifier.VECTOR: {Source.VECTOR, Source.CODE_5},
    Qualifier.LEAF: {Source.EAX},
    Qualifier.CONTROL: {Source.CODE_4, Source.ROW, Source.REGISTER},
    Qualifier.DEBUG: {Source.CODE_4, Source.REGISTER},
    Qualifier.TABLE: {Source.ROW, Source.TABLE},
    Qualifier.EXTENDED: {Source.ECX},
    Qualifier.COUNTER: {Source.ECX},
    Qualifier.SELECTOR: {Source.SELECTOR},
    Qualifier.OFFSET: {Source.OFFSET},
    Qualifier.CODE: {Source.CODE},
    Qualifier.NUMBER: {Source.RAX, Source.EAX, Source.CODE_4, Source.ROW},
}


def test_every_svm_code_has_a_row() -> None:
    assert set(SVM_EXITS) == SVM_CODES


def test_every_vmx_reason_has_a_row() -> None:
    assert set(VMX_EXITS) == VMX_CODES


def test_c_and_python_number_the_sources_alike() -> None:
    native = {name.removeprefix("NV_FROM_"): getattr(lib, name) for name in dir(lib) if name.startswith("NV_FROM_")}
    assert native == {source.name: int(source) for source in Source}


@pytest.mark.parametrize(("row", "native"), ROWS)
def test_c_has_the_same_row(row: ExitRow, native: Native) -> None:
    c = native(row.code)
    other = row.reasons[1] if len(row.reasons) == 2 else 0
    assert (c.reason, c.other) == (row.reasons[0], other)
    assert (c.direction, c.source, c.length, c.value) == (row.direction, row.source, row.length, row.value)


@pytest.mark.parametrize(("table", "native"), [(table, native) for _, table, native in TABLES])
def test_c_has_no_row_that_python_lacks(table: Mapping[int, ExitRow], native: Native) -> None:
    edges = {0x10000, 1 << 32, (1 << 32) - 1, 1 << 63, *((1 << 64) - number for number in range(1, 20))}
    for code in {*range(0x1000), *edges} - table.keys():
        row = native(code)
        assert (row.reason, row.source, row.length) == (ExitReason.UNKNOWN, Source.CODE, 0), hex(code)


@pytest.mark.parametrize(("row", "native"), ROWS)
def test_a_row_is_whole(row: ExitRow, native: Native) -> None:
    del native
    assert row.name
    assert row.why
    assert 0 <= row.length <= 15
    for reason in row.reasons:
        if reason is not ExitReason.NMI:  # vector 2 of "exception or NMI"
            assert row.source in SOURCES[REASONS[reason].qualifier]
    if len(row.reasons) == 2:
        assert row.direction is not Direction.WRITE


# But for what KVM hands over under any engine, and for svm's NMI window, which has no exit of its own: L0 finds it at
# IRET's.
OWN_REASONS = [
    (engine, table, reason)
    for engine, table, _ in TABLES
    for reason in ExitReason
    if "direct" not in REASONS[reason].engines and (engine, reason) != ("svm", ExitReason.NMI_WINDOW)
]


@pytest.mark.parametrize(("engine", "table", "reason"), OWN_REASONS)
def test_a_reason_claims_an_engine_when_one_of_its_rows_reaches_levels(
    engine: str, table: Mapping[int, ExitRow], reason: ExitReason
) -> None:
    reached = any(reason in row.reasons and row.handlers is Handlers.LEVELS for row in table.values())
    assert (engine in REASONS[reason].engines) == reached


@pytest.mark.parametrize("reason", ExitReason)
def test_every_reason_is_some_engines_or_some_tables(reason: ExitReason) -> None:
    rows = [row for _, table, _ in TABLES for row in table.values() if reason in row.reasons]
    assert "direct" in REASONS[reason].engines or rows


def test_an_svm_intercept_is_the_bit_that_its_code_numbers() -> None:
    assert SVM_EXITS[0x10].intercepts[0].label == "VMCB 0x000 bit 16"
    assert SVM_EXITS[0x46].intercepts[0].label == "VMCB 0x008 bit 6"
    assert SVM_EXITS[0x72].intercepts[0].label == "VMCB 0x00c bit 18"
    assert SVM_EXITS[0xA2].intercepts[0].label == "VMCB 0x014 bit 2"
    assert SVM_EXITS[0xFFFFFFFFFFFFFFFF].intercepts == ()


@pytest.mark.parametrize(
    ("row", "qualifier"),
    [
        (SVM_EXITS[0x13], 3),
        (SVM_EXITS[0x4E], 14),
        (SVM_EXITS[0x6C], 2),
        (SVM_EXITS[0x8F], 0xC0000080),
        (SVM_EXITS[0x84], 0x84),
        (SVM_EXITS[0x6E], 0),
        (VMX_EXITS[50], 50),
        (VMX_EXITS[10], None),
    ],
)
def test_a_qualifier_that_the_row_alone_tells(row: ExitRow, qualifier: int | None) -> None:
    assert row.qualifier() == qualifier
