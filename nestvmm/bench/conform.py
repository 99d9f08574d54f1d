"""Plain data, as JSON has it, as what a dataclass says that it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["conform"]

_Kind = TypeVar("_Kind")


def conform(kind: type[_Kind], data: Any) -> _Kind:
    """A dataclass of texts, numbers, truths, tuples, dictionaries and other dataclasses of these, each perhaps None.

    What the data has besides is left out. Raises KeyError for a field that it lacks, and TypeError for one that is
    something else, as an endless float is.
    """
    found: _Kind = _conform(kind, data, kind.__name__)
    return found


def _conform(kind: Any, value: Any, name: str) -> Any:
    of = get_args(kind)
    if get_origin(kind) is UnionType:
        return None if value is None else _conform(of[0], value, name)
    if is_dataclass(kind) and isinstance(value, Mapping):
        kinds = get_type_hints(kind)
        known = {one.name: _conform(kinds[one.name], value[one.name], one.name) for one in fields(kind)}
        return kind(**known)  # type: ignore[operator]
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_conform(of[0], one, name) for one in value)
    if get_origin(kind) is dict and isinstance(value, Mapping):
        return {str(key): _conform(of[1], one, name) for key, one in value.items()}
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is not kind or kind is float:
        raise TypeError(f"{name} is {value!r:.40}, not {getattr(kind, '__name__', kind)}")
    return value
