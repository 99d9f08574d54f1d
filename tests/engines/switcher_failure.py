"""What a user is told when the switcher itself fails, under either vendor's engine."""

from __future__ import annotations

from typing import Any

from nestvmm._native import lib
from nestvmm.errors import HostError

__all__ = ["assert_failed"]


def assert_failed(case: dict[str, Any]) -> None:
    """The case "switcher failure": #UD at its first instruction, with the mailbox in RSP."""
    base = lib.NV_SWITCHER_BASE
    where = f"vector 0x6, error code 0x0, RIP {base:#x}, RSP {base + lib.NV_SWITCHER_MAILBOX:#x}"
    assert case["status"] == HostError.status
    assert case["message"].startswith(f"the switcher failed: {where}, CR2 0x")
    assert case["message"].endswith("; this is an error in nestvmm or in this host's KVM")
