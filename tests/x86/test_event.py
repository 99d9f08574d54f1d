"""What handlers answer."""

import gc
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm._dispatch import NV_ANSWER_OUTCOME, NV_ANSWER_VALUE, Answer
from nestvmm.x86.event import HANDLED, Outcome, Result

REST = (b"", 0, 0, None, 0, "")


def test_the_loop_looks_at_these_two() -> None:
    assert (Result._fields[NV_ANSWER_OUTCOME], Result._fields[NV_ANSWER_VALUE]) == ("outcome", "value")


def test_each_answer_is_what_its_name_says() -> None:
    assert Result.handled() == HANDLED == (Outcome.HANDLED, 0, *REST)
    assert Result.declined() == (Outcome.DECLINED, 0, *REST)
    assert Result.retry() == (Outcome.RETRIED, 0, *REST)
    assert Result.read(7) == (Outcome.HANDLED, 7, *REST)
    assert Result.read_bytes(b"\1\2") == Result(Outcome.HANDLED, 0x201, b"\1\2")
    assert Result.reflected(3) == Result(Outcome.REFLECTED, level=3)
    assert Result.faulted(13, 0) == Result(Outcome.FAULTED, vector=13, error_code=0)
    assert Result.stopped(1, "why") == Result(Outcome.STOPPED, status=1, message="why")
    # of an instance, too, as a static method
    assert HANDLED.read(5) == Result(Outcome.HANDLED, 5)
    answers = (Result.handled(), Result.read(1), Result.declined(), Result.retry(), Result.stopped(0))
    assert {type(one) for one in answers} == {Result}


@given(st.lists(st.tuples(st.integers() | st.text() | st.none(), st.booleans())))
def test_an_answer_that_is_kept_stays_as_it_is(values: list[tuple[object, bool]]) -> None:
    kept, expected = [], []
    for value, keeps in values:
        one = Result.read(value)  # type: ignore[arg-type]
        assert one == (Outcome.HANDLED, value, *REST)
        assert hash(one) == hash(Result(Outcome.HANDLED, value))  # type: ignore[arg-type]
        if keeps:
            kept.append(one)
            expected.append((Outcome.HANDLED, value, *REST))
    assert kept == expected
    assert len({id(one) for one in kept}) == len(kept)


def test_a_value_that_is_dropped_may_ask_for_another_answer() -> None:
    answers = []

    class Value:
        def __del__(self) -> None:
            answers.append(Result.read(2))

    Result.read(Value())  # type: ignore[arg-type]
    last = Result.read(1)
    assert ([*answers], last) == ([Result(Outcome.HANDLED, 2)], Result(Outcome.HANDLED, 1))


def test_nothing_is_left_behind_by_answers() -> None:
    value = object()
    Result.read(0)
    gc.collect()
    counted = (value, HANDLED, Result, Outcome.HANDLED, None)
    before = [sys.getrefcount(one) for one in counted]
    for _ in range(1000):
        Result.read(value)  # type: ignore[arg-type]
        _ = [Result.read(0), Result.read(value), Result.handled()]  # type: ignore[arg-type]
    del _
    Result.read(0)
    gc.collect()
    after = [sys.getrefcount(one) for one in counted]
    # None is everybody's
    assert after[:-1] == before[:-1]
    assert abs(after[-1] - before[-1]) < 100


def test_an_answer_is_like_a_tuple_of_two_at_least() -> None:
    assert Answer((1, 2)).read(5) == (1, 5)
    assert Answer((1, 2, 3)).same() == (1, 2, 3)
    for wrong, error in (((), ValueError), ((1,), ValueError), ([1, 2], TypeError)):
        with pytest.raises(error):
            Answer(wrong)  # type: ignore[type-var]
