"""guests/minivisor where the processor does not have what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import guest, nestvmm
from minivisor_cases import tower


@pytest.mark.kvm
@pytest.mark.parametrize("vendor", ["svm", "vmx"])
def test_a_processor_without_the_means_is_named(vendor: str, tmp_path: Path) -> None:
    guest("minivisor")
    image = tmp_path / "tower.elf"
    image.write_bytes(tower(vendor, 2, "hello"))
    ended = nestvmm("run", image, "-m", 16, "--expose", f"L0:-{vendor}")
    assert ended.out.decode().splitlines() == [f"minivisor 1: this processor has no {vendor.upper()}"]
    assert (ended.status, ended.err) == (2, "")
