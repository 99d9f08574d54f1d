"""Records: value classes with slots, written like dataclasses.

Importing `dataclasses` and making fifty of them costs a VMM some 25 ms before its guest can start; these cost 2 ms.
The annotations of a class body are its fields, in order, its `__slots__` what is no field; class options
(`class X(Record, key=value)`) go to `__init_subclass__`. A record that is another record's default is made anew for
each instance. One with a base before Record has its fields in that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn, Self, dataclass_transform

from nestvmm._native import ffi

__all__ = ["Record", "Struct", "Value"]


class _RecordType(type):
    """Turns the annotations of a class body, ClassVars aside, into slots, defaults and `__match_args__`."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> _RecordType:
        annotations = namespace.get("__annotations__", {})
        own = tuple(field for field, kind in annotations.items() if not kind.startswith("ClassVar"))
        defaults = {field: namespace.pop(field) for field in own if field in namespace}
        if bases:
            inherited: Any = bases[-1]
            namespace["_fields"] = inherited._fields + own
            namespace["_defaults"] = {**inherited._defaults, **defaults}
        namespace["__slots__"] = (*(own if len(bases) < 2 else ()), *namespace.get("__slots__", ()))
        namespace["__match_args__"] = namespace["_fields"]
        return super().__new__(mcls, name, bases, namespace, **options)


class Record(metaclass=_RecordType):
    """Base of both kinds: equality by type and fields, a readable repr, reading from a C struct by field name."""

    _fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, *values: Any, **named: Any) -> None:
        cls = type(self)
        fields = cls._fields
        if len(values) > len(fields):
            raise TypeError(f"{cls.__name__} has {len(fields)} fields, {len(values)} were given")
        for field, value in zip(fields, values, strict=False):
            object.__setattr__(self, field, value)
        for field in fields[len(values) :]:
            if field in named:
                value = named.pop(field)
            elif field in cls._defaults:
                value = _anew(cls._defaults[field])
            else:
                raise TypeError(f"{cls.__name__} needs {field}")
            object.__setattr__(self, field, value)
        if named:
            raise TypeError(f"{cls.__name__} does not take {', '.join(named)} here; its fields are {', '.join(fields)}")

    @classmethod
    def of(cls, c: Any) -> Self:
        """Copy the fields of the same names from a cffi struct."""
        record = cls.__new__(cls)
        for field in cls._fields:
            value = getattr(c, field)
            object.__setattr__(
                record, field, value if type(value) is int else _from_c(value, cls._defaults.get(field, ()))
            )
        return record

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{field}={getattr(self, field)!r}' for field in self._fields)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, field) for field in self._fields)))

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        """How `copy` and `pickle` make another: by calling the class, as slots of an immutable one cannot be set."""
        return type(self), tuple(getattr(self, field) for field in self._fields)


def _anew(default: Any) -> Any:
    """A default's own copy for one instance; only records can change."""
    if type(default) is int:
        return default
    if isinstance(default, Record):
        return type(default)()
    return tuple(map(_anew, default)) if isinstance(default, tuple) else default


def _from_c(value: Any, default: Any) -> Any:
    """A cffi array or struct as the kind of value that its field's default has."""
    if isinstance(default, bytes):
        return bytes(ffi.buffer(value))
    if isinstance(default, tuple):
        return tuple(item if type(item) is int else _from_c(item, default[0]) for item in value)
    return type(default).of(value)


@dataclass_transform()
class Struct(Record):
    """A mutable record: integers, `bytes`, tuples, structs, all with defaults. Option `c`: the C struct it mirrors."""

    _pointer: ClassVar[str]
    __hash__ = None  # type: ignore[assignment] # mutable

    def __init_subclass__(cls, c: str = "") -> None:
        cls._pointer = f"{c} *"

    @classmethod
    def new(cls) -> Any:
        """A zeroed C struct that this class mirrors, as a cffi pointer."""
        return ffi.new(cls._pointer)

    def fill(self, c: Any) -> Any:
        """Copy the fields into a cffi struct of the same field names and give it back.

        Raises ValueError, naming the field, for a value that does not fit.
        """
        return self._put(c, self._fields)

    def _put(self, c: Any, fields: Iterable[str]) -> Any:
        for field in fields:
            try:
                _to_c(c, field, getattr(self, field))
            except (OverflowError, TypeError, IndexError) as error:
                raise ValueError(f"{type(self).__name__}.{field}: {error}") from error
        return c


def _to_c(place: Any, key: str, value: Any) -> None:
    if isinstance(value, int):
        setattr(place, key, value)
    elif isinstance(value, Struct):
        value.fill(getattr(place, key))
    elif isinstance(value, bytes | bytearray):
        array = getattr(place, key)
        if len(value) != ffi.sizeof(array):
            raise TypeError(f"{len(value)} bytes were given, {ffi.sizeof(array)} are needed")
        ffi.memmove(array, value, len(value))
    elif isinstance(value, tuple | list):
        array = getattr(place, key)
        if len(value) != len(array):
            raise TypeError(f"{len(value)} values were given, {len(array)} are needed")
        for index, item in enumerate(value):
            if isinstance(item, Struct):
                item.fill(array[index])
            else:
                array[index] = item
    else:
        raise TypeError(f"a {type(value).__name__} cannot be stored")


@dataclass_transform(frozen_default=True)
class Value(Record):
    """An immutable record."""

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be deleted")
