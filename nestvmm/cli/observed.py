"""How `nestvmm run` is watched: the `--stats-*` options, and `nestvmm top` from elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nestvmm.nesting import Clock, Tower
from nestvmm.stats.served import served
from nestvmm.stats.snapshot import Meter

__all__ = ["observed"]

_INTERVAL = 1.0


@contextmanager
def observed(tower: Tower, clock: Clock, options: Mapping[str, object]) -> Iterator[None]:
    """Lets a run be watched while the context lasts. Raises UsageError for files that cannot be."""
    with ExitStack() as stack:
        meter = Meter(tower, clock)
        interval, lines, text = (options[f"stats_{name}"] for name in ("interval", "jsonl", "prometheus"))
        if interval is not None or lines is not None or text is not None:
            seconds = interval if isinstance(interval, float) else _INTERVAL
            _report(stack, meter, seconds, None if lines is None else str(lines), None if text is None else str(text))
        stack.enter_context(served(meter))
        yield


def _report(stack: ExitStack, meter: Meter, interval: float, lines: str | None, text: str | None) -> None:
    from nestvmm.stats.reporter import Reporter, json_lines, prometheus_file  # noqa: PLC0415 - only runs that report

    sinks = []
    if lines is not None:
        sinks.append(stack.enter_context(json_lines(Path(lines))))
    if text is not None:
        sinks.append(prometheus_file(Path(text)))
    if not sinks:
        from nestvmm.cli.live_table import live_table  # noqa: PLC0415 - rich takes as long to import as a guest to run

        sinks.append(stack.enter_context(live_table(sys.stderr, alone=not sys.stdout.isatty())))
    stack.enter_context(Reporter(meter, interval, sinks))
