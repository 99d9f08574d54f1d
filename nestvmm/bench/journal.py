"""What a long benchmark has done so far, in a file: a run that was interrupted goes on behind its last whole step.

JSON, a line each: first {"format", "choice", "machine"}, then {"step": "case/name", "rows": [...]}.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from nestvmm.bench.row import Row
from nestvmm.errors import UsageError

__all__ = ["Journal"]

_FORMAT: Final = "nestvmm-bench-journal-1"


class Journal:
    """The steps that are done; a context manager.

    path:    the file; None: nothing is kept
    choice:  what was asked for, and the machine: a file that was begun for anything else is refused with UsageError
    """

    def __init__(self, path: Path | None, choice: Mapping[str, Any]) -> None:
        self.done: dict[str, list[Row]] = {}
        self._path = path
        self._file = -1
        if path is None:
            return
        head = json.loads(json.dumps({"format": _FORMAT, **choice}))
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise ValueError("this is no regular file")
            self._read(path, head)
        except OSError as error:
            raise UsageError(f"--resume {path}: {error.strerror}") from None
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise UsageError(f"--resume {path}: {error}; name another file, or delete this one") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _read(self, path: Path, head: Mapping[str, Any]) -> None:
        lines = path.read_bytes().split(b"\n")
        # what was being written when the machine went down has no end
        torn = lines.pop()
        if torn:
            os.ftruncate(self._file, os.fstat(self._file).st_size - len(torn))
        if not lines:
            self._append(head)
            return
        found = json.loads(lines[0])
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError("this is no benchmark's journal")
        different = sorted(key for key in head.keys() | found.keys() if head.get(key) != found.get(key))
        if different:
            raise ValueError(f"it was begun with another {' and another '.join(different)}")
        for line in lines[1:]:
            entry = json.loads(line)
            self.done[entry["step"]] = [Row.from_dict(row) for row in entry["rows"]]

    def add(self, step: str, rows: Sequence[Row]) -> None:
        """A step is done."""
        self.done[step] = list(rows)
        if self._path is not None:
            self._append({"step": step, "rows": [row.as_dict() for row in rows]})

    def _append(self, entry: Mapping[str, Any]) -> None:
        data = json.dumps(entry).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise UsageError(f"--resume {self._path}: {error.strerror}") from None
