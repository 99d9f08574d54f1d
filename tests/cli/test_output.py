"""What `nestvmm` prints: the table, the account as JSON, the trace, help. Guest output is on stdout, ours on stderr."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest
from command import TOWER, guest, nestvmm
from machine_code import image, leave, out, out_byte, say

# One serial byte, three ports that nobody has, one that a level counts, the end.
CODE = say(b"x") + out(0x5000, 1) * 2 + out_byte(0x5004, 2) + out(0x80, 3) + leave(0)


@pytest.mark.kvm
def test_guest_output_and_ours_do_not_mix(tmp_path: Path) -> None:
    ended = nestvmm(*image(tmp_path, CODE), "--stats")
    assert (ended.status, ended.out) == (0, b"x")
    assert "x" not in ended.err.splitlines()[0].split()
    assert b"nestvmm" not in ended.out


@pytest.mark.kvm
def test_the_table_of_the_demonstration() -> None:
    guest("events")
    ended = nestvmm("run", TOWER, "--stats")
    assert ended.status == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.err.splitlines() if line[:1] == "│"]
    assert {row[0] for row in rows} == {"L0", "L1", "L2", "L3"}
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)
    table = {(row[0], row[1], row[2], row[3]): row[4:] for row in rows}
    for level, handler, ports in ("L1", "Resuming", 0x5000), ("L2", "Emulating", 0x5100), ("L3", "Areas", 0x5200):
        count, in_c, mean, p99 = table[level, handler, "io", f"{ports:#x}-{ports + 0xFF:#x}"]
        assert (count, in_c) == ("69", "0")
        assert 0 < float(mean) < 1e6
        assert 0 < float(p99) < 1e6
    count, in_c, _, _ = table["L0", "UART", "io", "0x3f8-0x3ff"]
    assert count == in_c
    found = re.search(r"^(\d+) exits in \d+\.\d{3} s$", ended.err, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == sum(int(row[4]) for row in rows)


@pytest.mark.kvm
def test_the_table_tells_what_nobody_claimed(tmp_path: Path) -> None:
    ended = nestvmm(*image(tmp_path, CODE), "--stats")
    assert "nobody claimed: io write 0x5000 x2, io write 0x5004 x1" in ended.err.replace("\n", " ")


@pytest.mark.kvm
@pytest.mark.parametrize("levels", [[], ["--level", "console", "--level", "debug-console"]], ids=str)
def test_json_on_standard_output_is_alone_there(tmp_path: Path, levels: list[str]) -> None:
    ended = nestvmm(*image(tmp_path, out_byte(0xE9, 0x79) + CODE), *levels, "--json", "-")
    account = json.loads(ended.out)
    assert (ended.status, ended.err) == (0, "")
    counts = {(row["level"], row["reason"], row["qualifier"]): row["count"] for row in account["rows"]}
    top = len(levels) // 2
    assert counts == {
        (top, "io", "0xe9"): 1,
        (min(top, 1), "io", "0x3f8-0x3ff"): 1,
        (0, "io", "0xf4-0xf7"): 1,
        (0, "io", "0x80"): 1,
        (0, "io", "unclaimed"): 3,
    }
    assert account["unclaimed"] == [
        {"reason": "io", "qualifier": "0x5000", "direction": "write", "count": 2},
        {"reason": "io", "qualifier": "0x5004", "direction": "write", "count": 1},
    ]
    assert {key: account[key] for key in ("height", "engine", "exits", "status", "message", "output_lost")} == {
        "height": top + 1,
        "engine": "direct",
        "exits": 7,
        "status": 0,
        "message": "",
        "output_lost": 0,
    }
    for row in account["rows"]:
        assert row["mean_ns"] > 0
        assert row["p99_ns"] > 0
        assert row["served_in_c"] == (row["count"] if row["level"] == 0 and "0xf4" not in row["qualifier"] else 0)


@pytest.mark.kvm
def test_json_in_a_file_with_the_end_of_the_run(tmp_path: Path) -> None:
    account = tmp_path / "account.json"
    ended = nestvmm(*image(tmp_path, say(b"x") + leave(0x1FF)), "--json", account)
    assert (ended.status, ended.out) == (255, b"x")
    found = json.loads(account.read_text())
    assert found["status"] == 255
    assert f"nestvmm: {found['message']}\n" == ended.err


@pytest.mark.kvm
def test_a_line_of_trace_for_each_exit(tmp_path: Path) -> None:
    trace, account = tmp_path / "trace.jsonl", tmp_path / "account.json"
    guest("events")
    assert nestvmm("run", TOWER, "--trace", trace, "--json", account).status == 0
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    found = json.loads(account.read_text())
    assert len(lines) == found["exits"]
    assert [line["n"] for line in lines] == list(range(len(lines)))
    assert all(before["ticks"] < after["ticks"] for before, after in pairwise(lines))
    for row in found["rows"]:
        mine = [
            line
            for line in lines
            if (line["handler"], line["who"], line["reason"]) == (row["level"], row["who"], row["reason"])
        ]
        assert len(mine) >= row["count"]
        assert sum(line["in_c"] for line in mine) >= row["served_in_c"]
    assert {line["level"] for line in lines} == {4}
    last = lines[-1]
    assert {key: last[key] for key in ("reason", "qualifier", "direction", "size", "value", "handler", "who")} == {
        "reason": "io",
        "qualifier": 0xF4,
        "direction": "write",
        "size": 1,
        "value": 0,
        "handler": 0,
        "who": "debug exit",
    }


@pytest.mark.kvm
def test_a_trace_longer_than_its_ring(tmp_path: Path) -> None:
    """10,000 exits: the run pauses to have them written, and loses none."""
    # mov ecx, 10000; mov edx, 0x80; 10: out dx, al; dec ecx; jnz 10
    code = bytes.fromhex("b9 10 27 00 00 ba 80 00 00 00 ee ff c9 75 fb") + leave(0)
    trace = tmp_path / "trace.jsonl"
    assert nestvmm(*image(tmp_path, code), "--trace", trace).status == 0
    lines = trace.read_text().splitlines()
    assert len(lines) == 10_001
    assert [json.loads(line)["n"] for line in (lines[4095], lines[4096], lines[-1])] == [4095, 4096, 10_000]


@pytest.mark.kvm
def test_dry_run_says_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    guest("events")
    ended = nestvmm("run", TOWER, "--dry-run")
    assert (ended.status, ended.out) == (0, b"")
    heads = [line for line in ended.err.splitlines() if line.startswith("L")]
    assert heads[0].startswith("L4 ELF64 ")
    assert heads[1:] == ["L3 Areas", "L2 Emulating", "L1 Resuming", "L0 nestvmm"]
    assert "   memory of L4: 0x0-0xffffff rwx" in ended.err
    assert "   io 0x5100-0x51ff\n" in ended.err
    assert "   emulation-failure f30fb8c3\n" in ended.err
    trace = tmp_path / "trace.jsonl"
    assert nestvmm(*image(tmp_path, say(b"x")), "--dry-run", "--trace", trace).out == b""
    assert not trace.exists()


COMMANDS = [
    *([], ["run"], ["features"], ["reasons"], ["doctor"], ["lab"], ["lab", "svm"], ["lab", "vmx"], ["top"], ["trace"]),
    *(["trace", "summarize"], ["report"], ["bench"]),
]
WITHOUT_EXAMPLES = (["doctor"], ["lab"], ["trace"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "nestvmm")
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(command: list[str], option: str) -> None:
    ended = nestvmm(*command, option)
    assert (ended.status, ended.err) == (0, "")
    text = ended.out.decode()
    assert text.startswith(f"Usage: {' '.join(['nestvmm', *command])} ")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "..." not in text.partition("Commands:")[2]
    if command not in WITHOUT_EXAMPLES:
        assert f"{' '.join(['nestvmm', *command])} " in text.split("Examples:")[1]


def test_help_names_all_commands_and_options() -> None:
    text = nestvmm("--help").out.decode()
    for command in COMMANDS[1:]:
        assert re.search(rf"^  {command[0]} +\w", text, re.MULTILINE)
    text = nestvmm("run", "--help").out.decode()
    options = "-k -a -i -m -M --kernel --append --initrd --mem --level --designate --engine --stats --json --trace"
    for option in f"{options} --timeout --dry-run --raw-exit-status --unclaimed --machine --address".split():
        assert re.search(rf"(^|[ ,]){option}\b", text, re.MULTILINE), option


def test_version() -> None:
    ended = nestvmm("--version")
    assert (ended.status, ended.out.decode(), ended.err) == (0, f"nestvmm, version {version('nestvmm')}\n", "")


@pytest.mark.kvm
def test_doctor() -> None:
    ended = nestvmm("doctor")
    assert (ended.status, ended.err) == (0, "")
    text = ended.out.decode()
    for name in "processor", "kernel", "modules", "/dev/kvm", "nesting", "direct", "svm", "vmx", "svm lab", "vmx lab":
        assert re.search(rf"^{name} +\S", text, re.MULTILINE)
    assert re.search(r"^/dev/kvm +yes: it made a VM$", text, re.MULTILINE)
    assert re.search(r"^direct +yes: ", text, re.MULTILINE)
    # whatever does not work has a cause
    assert len(re.findall(r"^\S+( lab)? +no\b", text, re.MULTILINE)) == text.count("cause: ")


@pytest.mark.kvm
def test_doctor_as_json() -> None:
    found = json.loads(nestvmm("doctor", "--json").out)
    assert (found["device"]["works"], found["engines"][0]["name"]) == (True, "direct")
    assert [engine["name"] for engine in found["engines"] if not engine["works"] and not engine["cause"]] == []
