"""What a report is made of: results of `nestvmm bench --json` and accounts of `nestvmm run --json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestvmm.bench import Document, read_document
from nestvmm.errors import UsageError
from nestvmm.loaders import regular_file

__all__ = ["AccountRow", "Inputs", "RunAccount", "read_inputs"]


@dataclass(frozen=True, slots=True)
class AccountRow:
    """Events of one reason that one handler handled; see nestvmm.nesting.account."""

    level: int
    who: str
    reason: str
    qualifier: str
    count: int
    in_c: int
    mean_ns: float


@dataclass(frozen=True, slots=True)
class RunAccount:
    """A run's account."""

    name: str
    engine: str
    height: int
    exits: int
    seconds: float
    rows: tuple[AccountRow, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """All files, in the order of the command line; each with its name."""

    documents: tuple[tuple[str, Document], ...]
    accounts: tuple[RunAccount, ...]


def read_inputs(paths: Iterable[Path]) -> Inputs:
    """Raises UsageError for a file that cannot be read, or that neither command wrote."""
    documents: list[tuple[str, Document]] = []
    accounts: list[RunAccount] = []
    for path in paths:
        data = _json(path)
        if "format" in data:
            documents.append((path.name, read_document(path)))
        else:
            accounts.append(_account(path, data))
    return Inputs(tuple(documents), tuple(accounts))


def _json(path: Path) -> Mapping[str, Any]:
    with regular_file(str(path)) as file:
        text = file.read()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise _neither(path) from None
    if not isinstance(data, dict):
        raise _neither(path)
    return data


def _neither(path: Path) -> UsageError:
    return UsageError(f"{path}: neither `nestvmm bench --json` nor `nestvmm run --json` wrote this")


def _account(path: Path, data: Mapping[str, Any]) -> RunAccount:
    try:
        rows = tuple(_row(row) for row in data["rows"])
        seconds = _finite(data["seconds"])
        return RunAccount(path.name, str(data["engine"]), int(data["height"]), int(data["exits"]), seconds, rows)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _neither(path) from None


def _row(row: Mapping[str, Any]) -> AccountRow:
    return AccountRow(
        level=int(row["level"]),
        who=str(row["who"]),
        reason=str(row["reason"]),
        qualifier=str(row["qualifier"]),
        count=int(row["count"]),
        in_c=int(row["served_in_c"]),
        mean_ns=_finite(row["mean_ns"]),
    )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number
