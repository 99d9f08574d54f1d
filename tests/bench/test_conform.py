"""Plain data as dataclasses."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm.bench.conform import conform


@dataclass(frozen=True)
class Inner:
    name: str
    known: bool


@dataclass(frozen=True)
class Outer:
    count: int
    share: float
    level: int | None
    ratio: float | None
    inner: Inner
    runs: tuple[float, ...]
    all: tuple[Inner, ...]
    texts: dict[str, dict[str, str]]
    versions: dict[str, str | None]


INNER = Inner("a", True)
OUTER = Outer(1, 2.5, None, 0.5, INNER, (1.0, 2.0), (INNER, INNER), {"a": {"b": "c"}}, {"x": None, "y": "1"})
PLAIN: dict[str, Any] = json.loads(json.dumps(asdict(OUTER)))


def test_what_a_dataclass_left() -> None:
    assert conform(Outer, PLAIN) == OUTER
    assert conform(Outer, PLAIN | {"ratio": None, "level": 3, "share": 2, "more": 1}) == Outer(
        **{**vars(OUTER), "ratio": None, "level": 3, "share": 2.0}
    )
    assert type(conform(Outer, PLAIN | {"share": 2}).share) is float


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", True, "count is True, not int"),
        ("count", 1.0, "count is 1.0, not int"),
        ("count", None, "count is None, not int"),
        ("share", float("nan"), "share is nan, not float"),
        ("share", float("inf"), "share is inf, not float"),
        ("share", "1", "share is '1', not float"),
        ("level", "x", "level is 'x', not int"),
        ("ratio", float("nan"), "ratio is nan, not float"),
        ("inner", 3, "inner is 3, not Inner"),
        ("inner", {"name": "a", "known": 1}, "known is 1, not bool"),
        ("runs", 3, "runs is 3, not tuple"),
        ("runs", [1, "2"], "runs is '2', not float"),
        ("all", [INNER.__dict__, {}], "'name'"),
        ("texts", {"a": "b"}, "texts is 'b', not dict"),
        ("texts", [], "texts is [], not dict"),
        ("versions", {"a": 1}, "versions is 1, not str"),
    ],
)
def test_what_is_something_else(name: str, value: object, message: str) -> None:
    with pytest.raises((TypeError, KeyError)) as error:
        conform(Outer, PLAIN | {name: value})
    assert str(error.value) == message


def test_what_is_not_there() -> None:
    for name in PLAIN:
        with pytest.raises(KeyError, match=name):
            conform(Outer, {key: value for key, value in PLAIN.items() if key != name})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(PLAIN)), plain)
def test_no_data_is_anything_but_one_or_an_error(name: str, value: object) -> None:
    try:
        found = conform(Outer, PLAIN | {name: value})
    except (TypeError, KeyError):
        return
    assert conform(Outer, json.loads(json.dumps(asdict(found)))) == found
