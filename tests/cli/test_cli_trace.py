"""`nestvmm trace summarize`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import TOWER, guest, nestvmm


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["trace.json", "trace.jsonl"])
def test_a_summary_has_every_exit_of_the_account(tmp_path: Path, name: str) -> None:
    guest("events")
    account = tmp_path / "account.json"
    assert nestvmm("run", TOWER, "--trace", tmp_path / name, "--json", account).status == 0
    summary = json.loads(nestvmm("trace", "summarize", tmp_path / name, "--json").out)
    counted: dict[tuple[int, str, str], list[int]] = {}
    for row in json.loads(account.read_text())["rows"]:
        sums = counted.setdefault((row["level"], row["who"], row["reason"]), [0, 0])
        sums[0] += row["count"]
        sums[1] += row["served_in_c"]
    found = {(one["level"], one["who"], one["reason"]): [one["count"], one["in_c"]] for one in summary["groups"]}
    assert found == counted
    for one in summary["groups"]:
        parts = sum(one[f"{part}_ns"] for part in ("decode", "route", "handle", "complete"))
        assert one["total_ns"] == pytest.approx(parts)
        assert 0 < one["minimum_ns"] <= one["p99_ns"] * 1.04
    ended = nestvmm("trace", "summarize", tmp_path / name, "--filter", "reason=io,level=L2")
    assert ended.status == 0
    assert "│ L2    │ Emulating │ io     │    69 │    0 │" in ended.out.decode()
    assert "69 of 3061 events\n" in ended.out.decode()


def test_errors_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no trace\n")
    ended = nestvmm("trace", "summarize", tmp_path / "text")
    assert ended.failed(2).endswith("text:1: not a trace that `nestvmm run --trace` wrote\n")
    assert "No such file" in nestvmm("trace", "summarize", tmp_path / "none").failed(2)
    assert "is not KEY=VALUE" in nestvmm("trace", "summarize", tmp_path / "text", "--filter", "x").failed(2)
