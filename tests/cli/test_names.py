"""Names that are their owners': of hypervisors. They are shown as they are, on any terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import environment, nestvmm
from machine_code import image, leave, out

NAMES = ["Ünï", "[/red]", "[bold]x[/bold]", ":smile:"]


@pytest.fixture
def hypervisor(tmp_path: Path) -> str:
    """A class of each name, by its number."""
    lines = ["from nestvmm.hypervisors import Hypervisor, Result, on_io", "class Own(Hypervisor):"]
    lines += ["    @on_io(0x5000)", "    def access(self, event): return Result.handled()"]
    lines += [f"Class{number} = type({name!r}, (Own,), {{}})" for number, name in enumerate(NAMES)]
    (tmp_path / "own.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{tmp_path / 'own.py'}:Class"


@pytest.mark.kvm
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_hypervisors_name(tmp_path: Path, hypervisor: str, number: int, encoding: str) -> None:
    (tmp_path / "temporary").mkdir()
    env = {**environment(str(tmp_path / "temporary")), "PYTHONIOENCODING": encoding}
    trace, account = tmp_path / "trace.jsonl", tmp_path / "account.json"
    code = image(tmp_path, out(0x5000, 1) + leave(0))
    options = ("--level", f"{hypervisor}{number}", "--trace", trace, "--json", account)
    shown = NAMES[number].encode(encoding, "backslashreplace").decode(encoding)
    run = nestvmm(*code, *options, "--stats", env=env)
    assert (run.status, f" {shown} " in run.err) == (0, True)
    live = nestvmm(*code, "--level", f"{hypervisor}{number}", "--stats-interval", 60, env=env)
    assert (live.status, f" {shown} " in live.err) == (0, True)
    summary = nestvmm("trace", "summarize", trace, env=env)
    assert (summary.status, f" {shown} " in summary.out.decode(encoding)) == (0, True)
    page = nestvmm("report", account, "-o", "-", env=env)
    assert (page.status, page.err, NAMES[number] in page.out.decode()) == (0, "", True)
