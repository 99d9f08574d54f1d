"""`nestvmm features`, and `--expose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import TOWER, nestvmm
from machine_code import image, leave

pytestmark = pytest.mark.kvm


def rows(*arguments: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    ended = nestvmm("features", *arguments, "--json")
    assert (ended.status, ended.err) == (0, "")
    report = json.loads(ended.out)
    return report, {row["name"]: row for row in report["features"]}


def tower_file(folder: Path, expose: str = "") -> str:
    path = folder / "tower.toml"
    path.write_text(f'{expose}\n[guest]\nkernel = "absent"\n[[level]]\nhypervisor = "logger"\nexpose = ["-cx16"]\n')
    return str(path)


def test_without_a_tower_it_tells_of_level_1() -> None:
    report, features = rows()
    assert (report["engine"], report["height"]) == ("direct", 1)
    block = features["msr_block"]
    assert (block["hardware"], block["l0"], block["levels"], block["why"]) == (False, "emulated", [True], "")
    assert (features["nx"]["hardware"], features["nx"]["l0"], features["nx"]["levels"]) == (True, "hardware", [True])
    assert all(bool(row["why"]) != row["levels"][-1] for row in features.values())
    assert all((row["l0"] == "no") != row["levels"][0] for row in features.values())


def test_a_tower_file_and_options_add_up(tmp_path: Path) -> None:
    report, features = rows(
        tower_file(tmp_path, 'expose = ["L0:-clwb"]'), "--level", "console", "--expose", "L2:-msr_block"
    )
    assert report["height"] == 3
    assert features["cx16"]["levels"] == [True, False, False]
    assert features["cx16"]["why"] == "L1 hides it from the levels above it"
    assert features["msr_block"]["levels"] == [True, True, False]
    assert features["msr_block"]["why"] == "L2 hides it from the levels above it"
    assert features["clwb"]["levels"] == [False, False, False]


def test_the_last_word_counts(tmp_path: Path) -> None:
    _, features = rows(tower_file(tmp_path), "--expose", "L1:+cx16")
    assert features["cx16"]["levels"] == [True, True]


def test_the_table(tmp_path: Path) -> None:
    ended = nestvmm("features", tower_file(tmp_path))
    assert (ended.status, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.decode().splitlines()]
    assert lines[0] == ["Features", "(direct", "engine)"]
    assert ["feature", "hardware", "L0", "L1", "L2", "why", "not"] in lines
    assert ["msr_block", "-", "emulated", "yes", "yes"] in lines
    assert ["cx16", "yes", "yes", "yes", "-", "L1", "hides", "it", "from", "the", "levels", "above", "it"] in lines
    _, features = rows(tower_file(tmp_path))
    nobody = [name for name, row in features.items() if "no emulator" in row["why"]]
    assert lines[-1] == ["nobody", "has:", *(f"{name}," for name in nobody[:-1]), nobody[-1]]


def test_all_lists_also_what_nobody_has() -> None:
    short, long = (nestvmm("features", *options).out.decode() for options in ((), ("--all",)))
    assert "nobody has:" in short
    assert "nobody has:" not in long
    assert "no emulator" in long


@pytest.mark.parametrize(
    ("command", "expose", "message"),
    [
        (
            "features",
            ["L1:-msr_block,-nx", "L2:+msr_block"],
            "expose L2:+msr_block: L1 hides it from the levels above it",
        ),
        ("run", ["L1:-msr_block", "L2:+msr_block"], "expose L2:+msr_block: L1 hides it from the levels above it"),
        ("features", ["L1:+msr_blok"], "expose 'L1:+msr_blok': unknown feature 'msr_blok'; did you mean msr_block?"),
        ("run", ["L1:+msr_blok"], "expose 'L1:+msr_blok': unknown feature 'msr_blok'; did you mean msr_block?"),
        ("features", ["L4:-nx"], "expose 'L4:-nx': L4 is no hypervisor of this tower, so nothing is above it; it has"),
        ("run", ["nx"], "expose 'nx': expected Ln:+feature,-feature, such as L1:-popcnt"),
    ],
)
def test_what_cannot_be_exposed(command: str, expose: list[str], message: str) -> None:
    ended = nestvmm(command, TOWER, *(word for one in expose for word in ("--expose", one)))
    assert (ended.status, ended.out) == (2, b"")
    assert ended.err.startswith(f"nestvmm: {message}")
    assert ended.err.count("\n") == 1


def test_run_takes_it(tmp_path: Path) -> None:
    read = bytes.fromhex("b90001564e0f32")  # mov $0x4e560100, %ecx; rdmsr
    arguments = (*image(tmp_path, read + leave(7)), "--level", "logger")
    assert nestvmm(*arguments).status == 7
    hidden = nestvmm(*arguments, "--expose", "L1:-msr_block", "--stats")
    assert hidden.status == 255, "#GP, and no handler for it"
    assert "msr_block off" in hidden.err


def test_help_names_the_forms() -> None:
    ended = nestvmm("features", "--help")
    assert ended.status == 0
    assert b"Ln:+feature,-feature" in ended.out
