"""`nestvmm reasons`."""

from __future__ import annotations

import json

from command import nestvmm

from nestvmm.x86.exit_reason import REASONS, ExitReason


def table(*arguments: str) -> list[str]:
    ended = nestvmm("reasons", *arguments)
    assert (ended.status, ended.err) == (0, "")
    return [" ".join(line.split()) for line in ended.out.decode().splitlines()]


def test_all_reasons_with_their_codes() -> None:
    lines = table()
    assert {line.split()[0] for line in lines if line} >= {reason.label for reason in ExitReason}
    assert "io direct svm vmx port 0x7b 30 IN, OUT, INS, OUTS" in lines
    assert "cpuid svm vmx CPUID leaf 0x72 10 CPUID" in lines
    assert "cr-read svm vmx control register number 0x0-0xf 28 MOV from a control register, SMSW" in lines
    assert "rsm - nothing 0x73 17 RSM" in lines
    assert any(line.startswith("entry-failure direct svm vmx exit code -4 to -1 33-34, 41 ") for line in lines)


def test_one_reason_with_who_handles_its_exits_and_why() -> None:
    lines = table("hlt", "wrmsr")
    assert (
        "hlt svm 0x78 VMEXIT_HLT 1 VMCB 0x00c bit 24 levels the processor stops before it, so a level can do it instead"
        in lines
    )
    assert "hlt svm 0xa6 VMEXIT_IDLE_HLT 1 VMCB 0x014 bit 6 never VMEXIT_HLT is used, idle or not" in lines
    assert any(line.startswith("hlt vmx 12 HLT 1 primary bit 7 levels ") for line in lines)
    assert any(line.startswith("wrmsr vmx 32 WRMSR 2 primary bit 28, MSR bitmaps levels ") for line in lines)


def test_json() -> None:
    ended = nestvmm("reasons", "--json")
    found = {row["reason"]: row for row in json.loads(ended.out)}
    assert list(found) == [reason.label for reason in ExitReason]
    assert found["shutdown"]["engines"] == sorted(REASONS[ExitReason.SHUTDOWN].engines)
    assert found["exception"]["svm"][14] == {
        "code": 0x4E,
        "name": "VMEXIT_EXCP14",
        "qualifier": 14,
        "length": 0,
        "handlers": "levels",
        "why": "the processor stops before it is delivered, so a level can take or change it",
        "intercepts": ["VMCB 0x008 bit 14"],
    }
    assert [row["code"] for row in found["vmx-instruction"]["vmx"]] == [*range(19, 28), 50, 53, 59]


def test_an_unknown_reason() -> None:
    assert "unknown exit reason 'hlt2'; `nestvmm reasons` lists them" in nestvmm("reasons", "hlt2").failed(2)
