"""Rates as a line of JSON, and counters as Prometheus's text."""

from __future__ import annotations

import json

from nestvmm.stats.snapshot import Rates, Snapshot

__all__ = ["json_line", "prometheus"]


def json_line(rates: Rates) -> str:
    """A snapshot as JSON, with `per_second` and `mean_us` since the one before."""
    data = rates.now.as_dict()
    for row, (per_second, mean) in zip(data["rows"], rates.rows, strict=True):
        row["per_second"] = round(per_second, 3)
        row["mean_us"] = None if mean is None else round(mean, 3)
    return json.dumps({**data, "per_second": round(rates.exits, 3)}) + "\n"


def prometheus(now: Snapshot) -> str:
    """The text exposition format, version 0.0.4, as a node exporter's textfile collector takes it."""
    lines = [
        "# HELP nestvmm_exits_total Exits of level n, by the level, the handler and the reason; in_c: without Python.",
        "# TYPE nestvmm_exits_total counter",
    ]
    for row in now.rows:
        for in_c, count in ("true", row.in_c), ("false", row.count - row.in_c):
            if count:
                lines.append(f"nestvmm_exits_total{_labels(now, row.level, row.who, row.reason, in_c)} {count}")
    lines += [
        "# HELP nestvmm_handling_seconds_total What L0 and the handler took for them.",
        "# TYPE nestvmm_handling_seconds_total counter",
    ]
    for row in now.rows:
        lines.append(f"nestvmm_handling_seconds_total{_labels(now, row.level, row.who, row.reason)} {row.seconds:.9f}")
    lines += [
        "# HELP nestvmm_run_seconds Since the run's start.",
        "# TYPE nestvmm_run_seconds gauge",
        f'nestvmm_run_seconds{{pid="{now.pid}",engine="{now.engine}",height="{now.height}"}} {now.seconds:.3f}',
    ]
    return "\n".join(lines) + "\n"


def _labels(now: Snapshot, level: int, who: str, reason: str, in_c: str | None = None) -> str:
    labels = {"pid": str(now.pid), "level": str(level), "handler": who, "reason": reason}
    if in_c is not None:
        labels["in_c"] = in_c
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
