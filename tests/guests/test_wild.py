"""What no guest should do ends within its timeout, with the exit status of guests/README.md, and leaves nothing."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from command import GUESTS, Ended, guest, nestvmm

# Of members that only a timeout ends, and of those that end by themselves, in seconds.
TIMEOUT = 1.0
ENOUGH = 30.0
MIB = 1 << 20

# A member's statuses: of the README's table, the first numbers of the last column ("any": all).
ROWS = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| ([^|]*) \|$", (GUESTS / "README.md").read_text(), re.MULTILINE)
MEMBERS = {name: text for name, text in ROWS if re.match(r"(\d+|any)\b", text)}

# What those that end by themselves print, and what we say.
OUTPUT = {
    "write-beyond": "0 addresses leak",
    "string-beyond": "0 bytes changed",
    "reserved-bits": "vector 14 error 0x9",
    "string-wrap": "vectors 14 14 -1 -1 -1",
    "port-sweep": "swept",
    "bad-modes": "0 of 8 taken",
}
MESSAGE = {
    "halt": "guest at L1 died: it halted with interrupts off",
    "triple-fault": "guest at L1 died: triple fault",
    "exit-value": "the guest's exit value 0x12a does not fit an exit status",
    "reset-keyboard": "the guest reset the machine through its keyboard controller",
    "reset-cf9": "the guest reset the machine through its reset control register",
    "stack-overflow": "guest at L1 died: triple fault",
    "stack-hole": "guest at L1 died: triple fault",
    "jump-out": "guest at L1 died: KVM could not fetch its next instruction",
}


def statuses(text: str) -> set[int]:
    if text.startswith("any"):
        return {0, 124, 255}
    first = re.match(r"\d+", text)
    assert first is not None
    return {int(first[0]), *(int(other) for other in re.findall(r"; (\d+) on kvm_amd", text))}


def timeout(name: str) -> float:
    return ENOUGH if 124 not in statuses(MEMBERS[name]) else TIMEOUT


@pytest.fixture(scope="module")
def runs():
    """All members, two at a time: most of them take all of their timeout."""
    image = guest("wild")
    with ThreadPoolExecutor(2) as pool:
        arguments = ("run", image, "-m", 64, "-a")
        yield {name: pool.submit(nestvmm, *arguments, name, "--timeout", timeout(name)) for name in MEMBERS}


def test_every_member_has_a_row() -> None:
    source = (GUESTS / "wild" / "main.c").read_text()
    assert set(re.findall(r'^\t\{"([a-z0-9-]+)", ', source, re.MULTILINE)) == set(MEMBERS)


@pytest.mark.kvm
@pytest.mark.parametrize("name", MEMBERS)
def test_wild(runs: dict[str, Future[Ended]], name: str) -> None:
    ended = runs[name].result(120)
    assert ended.status in statuses(MEMBERS[name]), ended.err
    assert ended.out.startswith(f"wild {name}\n".encode())
    assert "Traceback" not in ended.err
    assert OUTPUT.get(name, "").encode() in ended.out
    assert ended.err.startswith("nestvmm: " + MESSAGE.get(name, "") if ended.status else "")
    if ended.status == 124:
        assert ended.err == f"nestvmm: timeout: the guest still ran after {TIMEOUT:g} s\n"
    # 64 MiB of RAM, and a process that does not grow with the number of exits; seconds, not a hang
    assert ended.peak < (64 + 96) * MIB
    assert ended.seconds < timeout(name) + 10


@pytest.mark.kvm
@pytest.mark.parametrize("seed", range(2, 10))
def test_garbage(seed: int) -> None:
    ended = nestvmm("run", guest("wild"), "-a", f"garbage seed={seed}", "--timeout", TIMEOUT, "-m", 16)
    assert "Traceback" not in ended.err
    # garbage may write anything to the debug exit, but a signal or a failed hypervisor is ours
    assert ended.status >= 0
    assert ended.status not in (2, 3, 4) or ended.err == ""


@pytest.mark.kvm
def test_halt_waits_in_a_pc() -> None:
    ended = nestvmm("run", guest("wild"), "-a", "halt", "--timeout", TIMEOUT, "-m", 16, "-M", "pc")
    assert ended.failed(124) == f"nestvmm: timeout: the guest still ran after {TIMEOUT:g} s\n"


@pytest.mark.kvm
@pytest.mark.parametrize("member", ["write-beyond", "string-wrap", "port-sweep", "triple-fault", "msr-storm"])
def test_wild_on_top_of_hypervisors(member: str) -> None:
    """What it does to level 3 stays at level 3: a level below serves its console."""
    levels = ("--level", "console", "--level", "logger,reasons=io,limit=0")
    ended = nestvmm("run", guest("wild"), "-a", member, "--timeout", ENOUGH, "-m", 64, *levels)
    assert ended.status in statuses(MEMBERS[member])
    assert ended.err.startswith(MESSAGE.get(member, "").replace("guest at L1", "nestvmm: guest at L3"))
    assert OUTPUT.get(member, "").encode() in ended.out
