from __future__ import annotations

import re
from pathlib import Path

from nestvmm.kvm import Cap

HEADER = Path("/usr/include/linux/kvm.h")


def test_numbers_are_those_of_the_kernel_header() -> None:
    header = {name: int(number) for name, number in re.findall(r"#define KVM_CAP_(\w+)\s+(\d+)", HEADER.read_text())}
    ours = {cap.name: cap.value for cap in Cap if cap.name in header}
    assert len(ours) > 90
    assert ours == {name: header[name] for name in ours}


def test_only_newer_ones_are_missing_from_the_header() -> None:
    header = set(re.findall(r"#define KVM_CAP_(\w+)\s+\d+", HEADER.read_text()))
    assert all(cap > 223 for cap in Cap if cap.name not in header)
