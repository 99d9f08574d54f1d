"""The examples of the documents do what the documents say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import GUESTS, guest, nestvmm

pytestmark = pytest.mark.kvm

ROOT = Path(__file__).resolve().parent.parent


def example(document: str, language: str) -> str:
    """The first block of that language in a document."""
    found = re.search(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no example in {language}"
    return found[1]


def test_the_first_tower_file(tmp_path: Path) -> None:
    (tmp_path / "guests").symlink_to(GUESTS)
    (tmp_path / "tower.toml").write_text(example("README.md", "toml"))
    ended = nestvmm("run", tmp_path / "tower.toml")
    assert ended.status == 0
    assert ended.out.startswith(b"hello from level 3\n")
    assert "L1 logger: <io write 0xf4 size 1 count 1 value 0x0 from L2>" in ended.err


@pytest.mark.parametrize(("document", "options"), [("README.md", ""), ("nestvmm/hypervisors/README.md", ",first=100")])
def test_the_hypervisor_in_python(document: str, options: str, tmp_path: Path) -> None:
    (tmp_path / "clock.py").write_text(example(document, "python"))
    account = tmp_path / "account.json"
    ended = nestvmm(
        *("run", guest("rtt"), "--append", "port-in", "--level", f"{tmp_path}/clock.py:Clock{options}"),
        *("--level", "console", "--json", account),
    )
    assert ended.status == 0
    rows = json.loads(account.read_text())["rows"]
    assert [(row["level"], row["count"]) for row in rows if row["who"] == "Clock"] == [(1, 1000)]


def test_the_tower_file_with_every_key(tmp_path: Path) -> None:
    text = example("nestvmm/cli/README.md", "toml")
    (tmp_path / "hello").symlink_to(GUESTS / "hello")
    (tmp_path / "tower.toml").write_text(text)
    ended = nestvmm("run", tmp_path / "tower.toml")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(b"hello, world\n")
