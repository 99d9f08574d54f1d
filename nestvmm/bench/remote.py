"""A benchmark in a lab: the far end does what the near end asks for, and says what it has as lines of JSON.

{"environment": {...}, "versions": {...}}    first
{"step": NAME, "of": NUMBER}                 begins; NAME is null at the end
{"done": NAME, "rows": [...]}
{"failed": [MESSAGE, ...]}                   last
{"error": MESSAGE, "status": NUMBER}         instead of all else
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nestvmm.bench.document import Environment, versions
from nestvmm.bench.request import Request, prepare
from nestvmm.bench.row import Row
from nestvmm.bench.session import Keeper, Watcher, measure
from nestvmm.errors import HostError, NestvmmError
from nestvmm.lab import Lab

__all__ = ["conduct_in", "far_end"]

_FAR_END = "from nestvmm.bench.remote import far_end; far_end()"


class Ear:
    """What the near end heard."""

    def __init__(self, keeper: Keeper, watch: Watcher) -> None:
        self._keeper = keeper
        self._watch = watch
        self._rest = b""
        self.complaints = b""
        self.head: Mapping[str, Any] | None = None
        self.failed: list[str] | None = None

    def take(self, fd: int, data: bytes) -> None:
        """A piece of output."""
        if fd != 1:
            self.complaints += data
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                # a machine that was started again left half a line
                continue
            self._understand(said)

    def _understand(self, said: Mapping[str, Any]) -> None:
        if "error" in said:
            raise HostError(f"in the lab: {said['error']}")
        if "environment" in said:
            self.head = said
        elif "of" in said:
            self._watch(said["of"], said["step"])
        elif "done" in said:
            self._keeper.add(said["done"], [Row.from_dict(row) for row in said["rows"]])
        elif "failed" in said:
            self.failed = said["failed"]


def conduct_in(
    lab: Lab, request: Request, keeper: Keeper, watch: Watcher
) -> tuple[Environment, dict[str, str | None], list[str]]:
    """Does it in a lab: the environment and versions there, and the messages of steps that failed."""
    ear = Ear(keeper, watch)
    order = json.dumps({"request": request.as_dict(), "done": sorted(keeper.done)}).encode()
    result = lab.run([sys.executable, "-c", _FAR_END], stdin=order, stream=ear.take)
    if ear.head is None or ear.failed is None:
        complaint = ear.complaints.decode(errors="replace").strip()
        raise HostError(f"the benchmark in the lab ended with status {result.status}: {complaint or 'it said nothing'}")
    return Environment(**ear.head["environment"]), dict(ear.head["versions"]), ear.failed


class Mouth:
    """Says each step's rows as they come."""

    def __init__(self, done: Sequence[str]) -> None:
        self.done: dict[str, list[Row]] = {name: [] for name in done}

    def add(self, step: str, rows: Sequence[Row]) -> None:
        """A step is done."""
        say({"done": step, "rows": [row.as_dict() for row in rows]})


def far_end() -> None:
    """Runs in the lab: reads what is wanted, and does it."""
    order = json.load(sys.stdin)
    # ends the half line that a machine which went down left behind
    print(flush=True)
    try:
        environment, steps = prepare(Request.from_dict(order["request"]))
        say({"environment": _fields(environment), "versions": versions()})
        failed = measure(steps, Mouth(order["done"]), lambda total, name: say({"step": name, "of": total}))
        say({"failed": failed})
    except NestvmmError as error:
        say({"error": str(error), "status": error.status})


def _fields(environment: Environment) -> dict[str, Any]:
    return {name: getattr(environment, name) for name in Environment.__dataclass_fields__}


def say(what: Mapping[str, Any]) -> None:
    """A line to the near end."""
    print(json.dumps(what), flush=True)
