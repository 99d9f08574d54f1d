"""The courses: the same guest, round by round, however it is served."""

from __future__ import annotations

import pytest

from nestvmm._native import ffi, lib
from nestvmm.bench.course import Course
from nestvmm.nesting import Account, Clock

TRIPS = 40


def handled(course: Course) -> dict[tuple[int, str], tuple[int, int]]:
    """(level, qualifier) -> (events, how many of them C served)."""
    account = Account.of(course.tower, Clock(), 1.0)
    return {(row.level, row.qualifier): (row.count, row.served_in_c) for row in account.rows}


@pytest.mark.kvm
def test_served_in_c_never_enters_python() -> None:
    with Course(TRIPS) as course:
        assert course.batch() > 0
        assert course.batch() > 0
        assert handled(course) == {(0, "0x80"): (2 * TRIPS, 2 * TRIPS), (1, "0xe0:w"): (2, 0), (1, "0xe1:w"): (2, 0)}


@pytest.mark.kvm
@pytest.mark.parametrize(("height", "handler"), [(2, 1), (4, 1), (4, 3), (16, 1), (16, 15), (5, 2)])
def test_served_by_the_level_that_is_to_serve(height: int, handler: int) -> None:
    with Course(TRIPS, height, handler) as course:
        assert course.batch() > 0
        assert handled(course) == {
            (handler, "0x80:r"): (TRIPS, 0),
            (handler, "0xe0:w"): (1, 0),
            (handler, "0xe1:w"): (1, 0),
        }


@pytest.mark.kvm
def test_the_bare_loop_and_the_runner_take_turns_on_one_vcpu() -> None:
    with Course(TRIPS) as course:
        for _ in range(3):
            assert course.bare_batch() > 0
            assert course.batch() > 0
        # the runner saw only its own batches
        assert handled(course)[0, "0x80"] == (3 * TRIPS, 3 * TRIPS)


@pytest.mark.kvm
def test_the_bare_loop_counts_exits_and_answers_with_all_ones() -> None:
    ticks = ffi.new("uint64_t *")
    with Course(TRIPS) as course:
        vcpu = course.tower.engine.vcpu
        for exits in (1, TRIPS):
            assert lib.nv_bench_bare(vcpu.fd, vcpu.run, exits, ticks) == 0
            assert ticks[0] > 0
        # the doorbell, then all but the last of the reads were completed
        registers = course.tower.engine.regs()
        assert registers.rsi == 1
        assert registers.rax & 0xFF == 0xFF
        # the last read, then the other doorbell
        assert lib.nv_bench_bare(vcpu.fd, vcpu.run, 1, ticks) == 0
        assert (vcpu.run.io.port, vcpu.run.io.direction) == (0xE1, lib.NV_WRITE)


@pytest.mark.kvm
def test_the_bare_loop_reports_what_kvm_says() -> None:
    ticks = ffi.new("uint64_t *")
    with Course(TRIPS) as course:
        vcpu = course.tower.engine.vcpu
        assert lib.nv_bench_bare(-1, vcpu.run, 1, ticks) == -9  # EBADF


@pytest.mark.parametrize(("trips", "height", "handler"), [(0, 2, 0), (1 << 31, 2, 0), (1, 1, 0), (1, 2, 2), (1, 4, -1)])
def test_what_is_no_course(trips: int, height: int, handler: int) -> None:
    with pytest.raises(ValueError, match="no such course"):
        Course(trips, height, handler)
