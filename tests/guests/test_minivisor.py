"""guests/minivisor and guests/innermost on KVM's own nesting: what a minivisor gives its guest, and refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from command import guest, nestvmm
from lab_cases import run_cases

from nestvmm.lab import Lab

HOLDS = "its guest has 0xe00000 bytes at 0x200000"


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    guest("minivisor")
    return run_cases(vendor_lab, "guests/minivisor_cases.py", vendor)


def test_all_answers_are_right(vendor: str, found: dict[str, Any]) -> None:
    case = found["answers"]
    lines = case["out"].splitlines()
    assert (case["status"], case["message"]) == (0, "")
    assert lines[:2] == [f"minivisor 1: {vendor.upper()}, {HOLDS}", "marks 1"]
    assert re.fullmatch(r"memory 0x[0-9a-f]+ to 0x[0-9a-f]+ of 0xe00000: right", lines[2])
    assert lines[3:6] == [
        f"hypercall 1: {(0x123456789ABCDEF * 31 + 1) % 2**64:#x}",
        "hypercalls refused: 0xffffffffffffffff, exception 6",
        "port 1: 0xda 0xdb 0xdc wide 0xffffffff",
    ]
    for line, kind in zip(lines[6:9], ("cpuid", "hypercall", "port"), strict=True):
        cost = re.fullmatch(rf"rtt {kind} count 20 min ([0-9]+) median ([0-9]+) cycles", line)
        assert cost is not None
        assert 0 < int(cost[1]) <= int(cost[2])
    assert lines[9:] == ["level 2: 0 wrong"]


@pytest.mark.parametrize(("name", "address"), [("beyond", 0xE00000), ("far beyond", 0x40000000)])
def test_no_guest_reaches_beyond_its_memory(name: str, address: int, found: dict[str, Any]) -> None:
    case = found[name]
    *_, before, last = case["out"].splitlines()
    assert before == f"beyond: {address:#x}"
    assert re.fullmatch(rf"minivisor 1: its guest touched {address:#x} at 0x10[0-9a-f]+, which is not its memory", last)
    assert case["status"] == 250


def test_a_guest_that_shuts_down_is_reported(found: dict[str, Any]) -> None:
    case = found["shutdown"]
    assert re.fullmatch(r"minivisor 1: its guest shut down at 0x10[0-9a-f]+", case["out"].splitlines()[-1])
    assert case["status"] == 253


@pytest.mark.parametrize(
    ("vendor", "name", "height"),
    [
        pytest.param("svm", "three", 3, marks=pytest.mark.svm_lab),
        pytest.param("svm", "four", 4, marks=pytest.mark.svm_lab),
        pytest.param("vmx", "three", 3, marks=pytest.mark.vmx_lab),
    ],
    indirect=["vendor"],
)
def test_it_nests_by_itself(name: str, height: int, found: dict[str, Any]) -> None:
    """On a KVM that knows of one level: each minivisor makes one block of two, and one set of tables.

    By VMX a fourth level takes the lab minutes.
    """
    case = found[name]
    lines = case["out"].splitlines()
    assert (case["status"], case["message"], lines[-1]) == (0, "", f"level {height}: 0 wrong")
    below = [str(level) for level in range(1, height)]
    assert lines[height - 1] == f"marks {' '.join(below)}"
    assert [line.split(":")[0] for line in lines[height + 1 : 2 * height]] == [f"hypercall {level}" for level in below]


@pytest.mark.kvm
def test_compiled_c_computes_the_same_above_a_minivisor(vendor: str, found: dict[str, Any]) -> None:
    without = nestvmm("run", guest("ordinary"), "--timeout", "60")
    assert without.status == 0
    assert found["ordinary"]["out"].splitlines() == [
        f"minivisor 1: {vendor.upper()}, {HOLDS}",
        *without.out.decode().splitlines(),
    ]
    assert found["ordinary"]["status"] == 0


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("alone", "minivisor 1: no image lies behind this one"),
        ("nothing on top", "minivisor 2: no image lies behind this one"),
        ("little memory", "minivisor 1: 0x300000 bytes of RAM leave its guest none: at least 0x400000 are needed"),
        ("no level", "minivisor 64: level is 1 to 63"),
        ("damaged", "minivisor 1: the next image is no ELF64 executable for x86-64"),
    ],
)
def test_what_cannot_start_says_why(name: str, last: str, found: dict[str, Any]) -> None:
    case = found[name]
    assert (case["status"], case["out"].splitlines()[-1]) == (2, last)
