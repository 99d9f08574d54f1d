"""Effects as each level sees them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nestvmm.nesting.propagation import Effects
from nestvmm.x86.exit_reason import ExitReason

IO, RDMSR = ExitReason.IO, ExitReason.RDMSR


def test_the_newest_of_a_lower_level_is_seen() -> None:
    effects = Effects((9,))
    effects.record(IO, 0x60, write=False, handler=1, cause=9, value=11)
    effects.record(IO, 0x60, write=False, handler=3, cause=9, value=33)
    assert [effects.seen_by(level, IO, [0x60], write=False) for level in (1, 2, 3, 4, 5)] == [None, 11, 11, 33, 33]
    effects.record(IO, 0x60, write=False, handler=1, cause=9, value=12)
    assert [effects.seen_by(level, IO, [0x60], write=False) for level in (2, 4)] == [12, 12]


def test_reason_qualifier_and_direction_are_apart() -> None:
    effects = Effects((9,))
    effects.record(IO, 0x60, write=True, handler=0, cause=9, value=1)
    assert effects.seen_by(1, IO, [0x60], write=False) is None
    assert effects.seen_by(1, IO, [0x61], write=True) is None
    assert effects.seen_by(1, RDMSR, [0x60], write=True) is None
    assert effects.seen_by(1, IO, [], write=True) is None
    assert effects.seen_by(1, IO, [0x61, 0x60], write=True) == 1


def test_what_an_image_caused_is_no_effect_for_levels_above_it() -> None:
    effects = Effects((2, 5))
    effects.record(IO, 0x60, write=False, handler=0, cause=2, value=7)
    assert [effects.seen_by(level, IO, [0x60], write=False) for level in (1, 2, 3, 5)] == [7, 7, None, None]
    effects.record(IO, 0x60, write=False, handler=3, cause=5, value=8)
    assert [effects.seen_by(level, IO, [0x60], write=False) for level in (1, 2, 3, 4, 5)] == [7, 7, None, 8, 8]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4), st.integers(0, 99)), max_size=30))
def test_each_level_sees_what_a_log_of_everything_would_show(events: list[tuple[int, bool, int, int]]) -> None:
    effects = Effects((9,))
    for qualifier, write, handler, value in events:
        effects.record(IO, qualifier, write, handler, 9, value)
    for level in range(6):
        for qualifier in range(4):
            for write in (False, True):
                log = [v for q, w, handler, v in events if (q, w) == (qualifier, write) and handler < level]
                assert effects.seen_by(level, IO, [qualifier], write) == (log[-1] if log else None)


def test_a_guest_cannot_make_l0_keep_more_than_4096() -> None:
    effects = Effects((9,))
    for qualifier in range(10000):
        effects.record(IO, qualifier, write=False, handler=0, cause=9, value=qualifier)
    kept = [qualifier for qualifier in range(10000) if effects.seen_by(1, IO, [qualifier], write=False) is not None]
    assert kept == list(range(10000 - 4096, 10000))
