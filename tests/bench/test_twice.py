"""Linux's KVM at level 1 and again at level 2: how the tower's figures are read; and the tower, by `make prove`."""

from __future__ import annotations

import pytest
from command import GUESTS, guest

from nestvmm.bench import KINDS, measure_twice
from nestvmm.bench.twice import read_figures
from nestvmm.errors import HostError

SAID = """level 2
port 42 37 mmio 1234567 feedbeef cpuid abcd1234 ticks 5
rtt cpuid count 5 min 9 median 10 cycles
rtt hypercall count 5 min 19 median 20 cycles
rtt port count 5 min 29 median 30 cycles
level 3
[    9.1] port 42 37 mmio 1234567 feedbeef cpuid abcd1234 ticks 5
[    9.2] rtt cpuid count 5 min 99 median 100 cycles
[    9.3] rtt hypercall count 5 min 199 median 200 cycles
[    9.4] rtt port count 5 min 299 median 300 cycles
status 0
"""


def test_the_figures_of_both_guests() -> None:
    assert read_figures(SAID) == {
        (2, "cpuid"): 10, (2, "hypercall"): 20, (2, "port"): 30,
        (3, "cpuid"): 100, (3, "hypercall"): 200, (3, "port"): 300,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("level 3", "the guest at level 2 did not run to its end"),
        ("rtt cpuid count 5 min 9 median 10 cycles", "the guest at level 2 did not"),
        ("rtt port count 5 min 299 median 300 cycles", "the guest at level 3 did not"),
        ("[    9.1] port 42 37 mmio 1234567 feedbeef cpuid abcd1234 ticks 5", "the guest at level 3 did not"),
        ("status 0", "the kernel at level 2 did not end in order"),
    ],
)
def test_a_tower_that_did_not_get_so_far_is_an_error(missing: str, message: str) -> None:
    with pytest.raises(HostError, match=message):
        read_figures(SAID.replace(missing, ""))


@pytest.mark.prove
@pytest.mark.svm_lab
def test_linux_kvm_runs_twice_and_flat_is_ten_times_cheaper() -> None:
    guest("vm_linux")
    rows = {(row.level, row.kind): row for row in measure_twice(GUESTS)}
    assert set(rows) == {(level, kind) for level in (2, 3) for kind in KINDS}
    for kind in KINDS:
        assert rows[2, kind].ratio == pytest.approx(1, abs=0.1)
        assert rows[3, kind].ratio >= 10
