"""The exit reasons of C and of Python are the same, and each one is described."""

import pytest

from nestvmm._native import ffi, lib
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier


def test_c_and_python_agree_by_name_and_number() -> None:
    native = {name: number for number, name in ffi.typeof("enum nv_reason").elements.items()}
    python = {f"NV_REASON_{reason.name}": int(reason) for reason in ExitReason}
    assert native == python | {"NV_REASONS": len(ExitReason)}


def test_numbers_are_dense() -> None:
    assert [int(reason) for reason in ExitReason] == list(range(lib.NV_REASONS))


def test_every_reason_has_a_row() -> None:
    assert list(REASONS) == list(ExitReason)


@pytest.mark.parametrize("reason", ExitReason)
def test_every_row_says_what_it_is_and_who_traps_it(reason: ExitReason) -> None:
    row = REASONS[reason]
    assert isinstance(row.qualifier, Qualifier)
    assert row.engines <= {"direct", "svm", "vmx"}
    assert row.meaning.strip()


@pytest.mark.parametrize("reason", ExitReason)
def test_a_label_names_its_reason(reason: ExitReason) -> None:
    assert ExitReason.from_label(reason.label) is reason
    assert reason.label == reason.label.lower()
    assert "_" not in reason.label


def test_an_unknown_label_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        ExitReason.from_label("no-such-reason")
