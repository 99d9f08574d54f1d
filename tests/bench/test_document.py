"""The file that a benchmark leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nestvmm.bench.document import FORMAT, Document, Environment, here, read_document, versions
from nestvmm.bench.row import Row
from nestvmm.errors import UsageError

ENVIRONMENT = Environment("this host", False, "a processor", 2, "6.1", {"kvm_amd": {"nested": "1"}}, 2600.0)
DOCUMENT = Document(
    ("bench", "--case", "cpuid"),
    "2026-01-02T03:04:05+00:00",
    1.5,
    {"nestvmm": "0.1.0", "python": "3.11.2", "qemu": None},
    ENVIRONMENT,
    (Row("cpuid", "one", runs=(1.0, 2.0)), Row("cpuid", "two", note="not there")),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(DOCUMENT.text())
    assert read_document(file) == DOCUMENT


def test_the_text_is_json_with_a_line_for_each_row() -> None:
    text = DOCUMENT.text()
    assert json.loads(text) == DOCUMENT.as_dict()
    assert sum(line.startswith('  {"case"') for line in text.splitlines()) == 2
    assert json.loads(text)["format"] == FORMAT


def test_a_document_without_rows(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    empty = replace(DOCUMENT, rows=())
    file.write_text(empty.text())
    assert read_document(file) == empty


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Expecting value"),
        ("[]", '"format" is not'),
        ('{"format": "nestvmm-bench-0"}', '"format" is not'),
        ('{"format": "nestvmm-bench-1"}', "'command' is missing"),
        (DOCUMENT.text().replace('"tsc_mhz": 2600.0', '"tsc": 1'), "'tsc_mhz' is missing"),
        (DOCUMENT.text().replace("[1.0, 2.0]", '["fast"]'), "runs is 'fast', not float"),
        (DOCUMENT.text().replace('"seconds": 1.5', '"seconds": []'), "float"),
        ("\xff", "Expecting value"),
        ("[" * 100_000, "recursion depth"),
        (DOCUMENT.text().replace("[1.0, 2.0]", "[NaN]"), "runs is nan, not float"),
        (DOCUMENT.text().replace('"level": null', '"level": "x"'), "level is 'x', not int"),
        (DOCUMENT.text().replace('"tsc_mhz": 2600.0', '"tsc_mhz": "x"'), "tsc_mhz is 'x', not float"),
    ],
)
def test_another_file_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"run\.json: ") as error:
        read_document(file)
    assert complaint in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_document(tmp_path / "run.json")
    with pytest.raises(UsageError, match=r"^/dev/zero: not a regular file; copy it to one$"):
        read_document(Path("/dev/zero"))


def test_this_machine() -> None:
    found = here("that host", icount=True)
    assert (found.machine, found.icount) == ("that host", True)
    assert found.cpus >= 1
    assert 100 < found.tsc_mhz < 10000
    assert found.cpu
    assert versions()["nestvmm"]
