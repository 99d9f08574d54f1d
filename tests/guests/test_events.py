"""Each event that the direct engine traps, at each level of a tower: what the guest sees, and who handled it."""

from __future__ import annotations

import json
import re
from itertools import permutations
from pathlib import Path

import pytest
from command import GUESTS, TOWER, Ended, guest, nestvmm

pytestmark = pytest.mark.kvm

AREAS = GUESTS / "events" / "areas.py"

# How many accesses of each reason an area gets: IN and OUT once each, INS in one, OUTS by element, echoes between.
AREA_COUNTS = {"io": 69, "mmio": 12, "rdmsr": 3, "wrmsr": 2}

# A hypervisor that declines everything.
SILENT = 'hypervisor = "logger"\noptions = { reasons = "io+mmio+rdmsr+wrmsr", limit = 0 }'


def check(ended: Ended, checks: int) -> None:
    """The guest made so many checks, and all were right."""
    lines = ended.out.decode().splitlines()
    assert lines[-1] == "events: 0 failed", ended
    assert [line for line in lines[:-1] if not line.endswith(" ok")] == []
    assert len(lines) - 1 == checks
    assert (ended.status, ended.err) == (0, "")


def write_tower(path: Path, append: str, levels: list[str], guest_lines: str = "", top: str = "") -> Path:
    file = path / "tower.toml"
    tables = "".join(f"[[level]]\n{level}\n" for level in levels)
    file.write_text(
        f'unclaimed = "error"\ntimeout = 60\n{top}\n[guest]\nkernel = "{guest("events")}"\nappend = "{append}"\n'
        f'memory = "32M"\n{guest_lines}\n{tables}'
    )
    return file


def area(number: int, kind: str = "Areas") -> str:
    return f'hypervisor = "{AREAS}:{kind}"\noptions = {{ area = {number} }}'


def test_the_demonstration_tower(tmp_path: Path) -> None:
    """Four levels, each a handler; the counts are exact."""
    guest("events")
    account = tmp_path / "account.json"
    check(nestvmm("run", TOWER, "--json", account), 3 * 24 + 2)
    found = json.loads(account.read_text())
    counts = {(row["level"], row["who"], row["reason"], row["qualifier"]): row["count"] for row in found["rows"]}
    serial = counts.pop((0, "UART", "io", "0x3f8-0x3ff"))
    expected = {
        (0, "debug exit", "io", "0xf4-0xf7"): 1,
        (1, "Resuming", "hlt", "*"): 1,
        (2, "Emulating", "emulation-failure", "f3480fb8c3"): 1,
    }
    for level, who in enumerate(("Resuming", "Emulating", "Areas"), start=1):
        place = level - 1
        first, hole, msr = 0x5000 + 0x100 * place, 0xD0000000 + 0x1000 * place, 0x4E560000 + 0x40 * place
        for reason, start, size in ("io", first, 0x100), ("mmio", hole, 0x1000), ("rdmsr", msr, 64), ("wrmsr", msr, 64):
            expected[level, who, reason, f"{start:#x}-{start + size - 1:#x}"] = AREA_COUNTS[reason]
    if (2, "Emulating", "emulation-failure", "f3480fb8c3") not in counts:
        del expected[2, "Emulating", "emulation-failure", "f3480fb8c3"]  # this host's processor executes POPCNT
    assert counts == expected
    assert found["exits"] == serial + sum(counts.values())
    assert (found["height"], found["engine"], found["unclaimed"], found["status"]) == (4, "direct", [], 0)


@pytest.mark.parametrize("places", list(permutations(range(3))), ids=str)
def test_each_area_at_each_level(tmp_path: Path, places: tuple[int, ...]) -> None:
    levels = [area(place) for place in places]
    check(nestvmm("run", write_tower(tmp_path, "areas=3", levels)), 3 * 24)


@pytest.mark.parametrize("height", [2, 5, 17])
def test_one_area_below_loggers(tmp_path: Path, height: int) -> None:
    """Those above decline everything they are asked, and the lowest hypervisor answers."""
    check(nestvmm("run", write_tower(tmp_path, "areas=1", [area(0), *[SILENT] * (height - 2)])), 24)


def test_the_highest_of_several_claims(tmp_path: Path) -> None:
    account = tmp_path / "account.json"
    file = write_tower(tmp_path, "areas=1", [area(0), area(0), area(0)])
    check(nestvmm("run", file, "--json", account), 24)
    assert {row["level"] for row in json.loads(account.read_text())["rows"]} == {0, 3}


def test_a_designation_to_a_lower_level(tmp_path: Path) -> None:
    account = tmp_path / "account.json"
    top = 'designate = ["io:0x5000-0x50ff=L2", "msr=L1", "mmio:0xd0000000+0x1000=L1"]'
    file = write_tower(tmp_path, "areas=1", [area(0), area(0), area(0)], top=top)
    check(nestvmm("run", file, "--json", account), 24)
    rows = json.loads(account.read_text())["rows"]
    handled = {(row["reason"], row["level"]): row["count"] for row in rows if row["level"]}
    assert handled == {("io", 2): 69, ("mmio", 1): 12, ("rdmsr", 1): 3, ("wrmsr", 1): 2}


def test_areas_at_addresses_that_maps_move(tmp_path: Path) -> None:
    """Level 2's hole 0xd0000000 is level 1's 0xe0000000: the handler at level 1 sees it at its own guest's address."""
    hypervisor = tmp_path / "moved.py"
    hypervisor.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(AREAS.parent)!r})\n"
        "from areas import Areas\n"
        "from nestvmm.hypervisors import ExitReason\n"
        "class Moved(Areas):\n"
        "    def claims(self):\n"
        "        for reason, first, last, direction, handler in super().claims():\n"
        "            moved = 0x10000000 if reason is ExitReason.MMIO else 0\n"
        "            yield reason, first + moved, last + moved, direction, handler\n"
    )
    memory = 'memory = [{ base = 0, size = "16M", at = "16M" }, { base = 0xd0000000, size = "4K", at = 0xe0000000 }]'
    levels = [f'hypervisor = "{hypervisor}:Moved"\noptions = {{ area = 0 }}', f"{SILENT}\n{memory}"]
    check(nestvmm("run", write_tower(tmp_path, "areas=1", levels)), 24)


def test_memory_that_may_only_be_read(tmp_path: Path) -> None:
    """A write to it is an MMIO event at its address; here nobody claims it, and nothing changes."""
    memory = 'memory = [{ base = 0, size = "16M" }, { base = "16M", size = "4K", at = "16M", rights = "rx" }]'
    account = tmp_path / "account.json"
    file = write_tower(tmp_path, "areas=0 readonly=0x1000008", [f"{SILENT}\n{memory}"])
    check(nestvmm("run", file, "--unclaimed", "ignore", "--json", account), 1)
    assert json.loads(account.read_text())["unclaimed"] == [
        {"reason": "mmio", "qualifier": "0x1000008", "direction": "write", "count": 1}
    ]


def test_memory_that_a_level_took_away(tmp_path: Path) -> None:
    """A hole in level 1's map is MMIO to level 2; a handler there answers in its place."""
    memory = 'memory = [{ base = 0, size = "16M" }]'
    file = write_tower(tmp_path, "areas=0 fault=0xd0000008", [f"{area(0)}\n{memory}"])
    check(nestvmm("run", file), 1)


def test_hlt_and_popcnt_and_int3(tmp_path: Path) -> None:
    """Where KVM cannot emulate POPCNT or INT3 at CPL 0, a level emulates them; where it can, INT3 is a debug event."""
    hypervisor = tmp_path / "debugging.py"
    hypervisor.write_text(
        "from nestvmm.hypervisors import HANDLED, Hypervisor, on_debug, on_instruction\n"
        "class Debugging(Hypervisor):\n"
        "    @on_debug(3)\n"
        "    @on_instruction(b'\\xcc')\n"
        "    def breakpoint(self, event):\n"
        "        self.guest.skip(1)\n"
        "        return HANDLED\n"
    )
    levels = [area(0, "Resuming"), area(1, "Emulating"), f'hypervisor = "{hypervisor}:Debugging"']
    check(nestvmm("run", write_tower(tmp_path, "areas=2 popcnt breakpoint=monitor hlt", levels)), 2 * 24 + 3)


@pytest.mark.parametrize("levels", [[], ["console"], ["logger,limit=0", "console", "logger,limit=0"]], ids=str)
def test_the_serial_ports_interrupt(levels: list[str]) -> None:
    options = [word for level in levels for word in ("--level", level)]
    ended = nestvmm("run", guest("events"), "-M", "pc", "-m", 16, "-a", "areas=0 interrupt", "--timeout", 30, *options)
    check(ended, 1)


def test_shutdown_is_a_triple_fault() -> None:
    ended = nestvmm("run", guest("events"), "-m", 16, "-a", "areas=0 shutdown")
    message = ended.failed(255)
    assert ended.out == b"events: 0 failed\n"
    assert message.startswith("nestvmm: guest at L1 died: triple fault\n")
    assert re.search(r"\brip=[0-9a-f]{16}\b", message)
    assert re.search(r"\bcr3=[0-9a-f]{16}\b", message)


def test_checks_can_fail() -> None:
    """Without a hypervisor the areas read as an empty bus: the guest says so."""
    ended = nestvmm("run", guest("events"), "-m", 16, "-a", "areas=1")
    assert ended.out.decode().splitlines()[-1] == f"events: {ended.status} failed"
    assert 10 < ended.status <= 24


def test_unclaimed_accesses_end_a_strict_run() -> None:
    ended = nestvmm("run", guest("events"), "-m", 16, "-a", "areas=1", "--unclaimed", "error")
    assert "nobody claims" in ended.failed(4)
    assert "0x5001" in ended.err
