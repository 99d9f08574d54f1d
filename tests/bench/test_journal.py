"""Going on where a benchmark was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvmm.bench.journal import Journal
from nestvmm.bench.row import Row
from nestvmm.errors import UsageError

CHOICE = {"choice": {"runs": 12, "heights": (1, 2)}, "machine": ["a processor", "6.1"]}
ROWS = [Row("cpuid", "one", runs=(1.0, 2.0)), Row("cpuid", "two")]


def begun(path: Path) -> None:
    with Journal(path, CHOICE) as journal:
        journal.add("cpuid/one", ROWS)
        journal.add("port/two", [])


def test_what_was_done_is_there(tmp_path: Path) -> None:
    begun(tmp_path / "journal")
    with Journal(tmp_path / "journal", CHOICE) as journal:
        assert journal.done == {"cpuid/one": ROWS, "port/two": []}


def test_without_a_file_nothing_is_kept() -> None:
    with Journal(None, CHOICE) as journal:
        journal.add("cpuid/one", ROWS)
        assert journal.done == {"cpuid/one": ROWS}


@pytest.mark.parametrize("cut", range(1, 30, 3))
def test_half_a_line_at_the_end_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    begun(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, CHOICE) as journal:
        assert journal.done == {"cpuid/one": ROWS}
        journal.add("port/two", [])
    with Journal(path, CHOICE) as journal:
        assert journal.done == {"cpuid/one": ROWS, "port/two": []}


def test_half_a_first_line_is_no_beginning(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    begun(path)
    path.write_bytes(path.read_bytes()[:10])
    with Journal(path, CHOICE) as journal:
        assert journal.done == {}
        journal.add("cpuid/one", ROWS)
    with Journal(path, CHOICE) as journal:
        assert journal.done == {"cpuid/one": ROWS}


def test_another_choice_or_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    begun(path)
    with pytest.raises(UsageError, match="begun with another choice; name another file"):
        Journal(path, {**CHOICE, "choice": {"runs": 13}})
    with pytest.raises(UsageError, match="begun with another machine"):
        Journal(path, {**CHOICE, "machine": ["another", "6.1"]})
    with Journal(path, CHOICE) as journal:
        assert len(journal.done) == 2


@pytest.mark.parametrize(
    "text",
    ["hello\n", "[]\n", "{}\n", '{"format": "nestvmm-bench-1"}\n', "\xff\n"],
    ids=["text", "list", "empty", "run", "bytes"],
)
def test_another_file_is_refused_and_stays(text: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"--resume .*journal: "):
        Journal(path, CHOICE)
    assert path.read_text(encoding="latin-1") == text


def test_a_step_that_is_no_step(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    begun(path)
    with path.open("a") as file:
        file.write('{"step": "x", "rows": [{}]}\n')
    with pytest.raises(UsageError, match="'case'"):
        Journal(path, CHOICE)


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        Journal(tmp_path / "no" / "journal", CHOICE)
    with pytest.raises(UsageError, match="Is a directory"):
        Journal(tmp_path, CHOICE)
    with pytest.raises(UsageError, match="--resume /dev/zero: this is no regular file"):
        Journal(Path("/dev/zero"), CHOICE)
