"""The account of a run as people read it."""

from __future__ import annotations

import pytest

from nestvmm.cli.tables import print_account
from nestvmm.nesting.account import Account, ImageRow


@pytest.mark.parametrize(
    ("engine", "entries", "others"),
    [
        ("svm", "VMRUN", "other SVM instructions"),
        ("vmx", "VMLAUNCH and VMRESUME", "other VMX instructions"),
    ],
)
def test_levels_of_machine_code(engine: str, entries: str, others: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_account(
        Account(
            height=2,
            engine=engine,
            exits=9,
            seconds=0.5,
            code=(1, 2),
            rows=(),
            images=(ImageRow(1, "visor.elf", 4, 3, 2),),
            unclaimed=(),
            unclaimed_lost=0,
            output_lost=0,
        )
    )
    text = capsys.readouterr().err
    assert f"┃ level ┃ image     ┃ exits to it ┃ {entries} ┃ {others} ┃" in text
    assert [word for word in text.split() if word.isdigit()] == ["4", "3", "2", "9"]
