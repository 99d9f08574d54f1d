"""Results that a benchmark and a run could have left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nestvmm.bench import Document, Environment, Row


def row(case: str, what: str, *runs: float, **fields: Any) -> Row:
    return Row(case, what, clock=fields.pop("clock", "guest"), runs=runs, **fields)


def depth(kind: str, mode: str, level: int, *runs: float) -> Row:
    handler = "C" if level == 1 else "image"
    return row("depth", f"{kind}, svm, L{level}, {mode}", *runs, engine="svm", mode=mode, level=level, handler=handler)


def twice(system: str, mode: str, level: int, *runs: float) -> Row:
    fields = {"system": "QEMU", "engine": "kvm"} if system == "QEMU" else {"engine": "svm"}
    return row("twice", f"cpuid, L{level}, {system}", *runs, mode=mode, level=level, handler="KVM", **fields)


ROWS = (
    *(depth("cpuid", "flat", level, *[1000.0 + level] * 10) for level in range(1, 5)),
    *(depth("cpuid", "cascade", level, *[1000.0 * 20**level] * 10) for level in range(2, 5)),
    *(depth("hypercall", "flat", level, *[900.0 + level] * 10) for level in range(2, 4)),
    *(twice("QEMU", "cascade", level, *[30.0**level] * 10) for level in (2, 3)),
    # one compared with two others is there twice
    *(twice("flat", "flat", level, *[500.0 * level] * 10) for level in (2, 3, 3)),
    *(twice("cascade", "cascade", level, *[50.0**level] * 10) for level in (2, 3)),
    row("hypercall", "published, L1", 1575, system="published", level=1, handler="KVM", source="a paper"),
    row("hypercall", "published, L2", 37733, system="published", level=2, handler="KVM", source="a paper"),
    row("port", "svm, L2, C at L0, guest's clock", *range(100, 112), engine="svm", level=2, handler="C"),
    row("port", "svm, L2, Python at L1, guest's clock", *range(900, 912), engine="svm", level=2, handler="Python"),
    row("port", "svm, L2, C at L0, L0's clock", 5, engine="svm", level=2, handler="C", clock="L0"),
    row("mmio", "svm, L2", engine="svm", level=2, handler="C", note="not measured"),
    row("switch", "served in C", handler="C", against="bare loop", ratio=1.13, goal=1.15),
    row("switch", "served in Python", handler="Python", against="bare loop", ratio=5.1, goal=1.4),
    row("switch", "served in Python", handler="Python", against="another loop", ratio=0.5, goal=1.4),
    *(
        row("parts", f"{part}, served in {handler}", value, engine="svm", handler=handler, unit="us", clock="L0")
        for handler, values in (("C", (8.0, 0.01, 0.02, 0.03, 0.04)), ("Python", (8.2, 0.01, 0.02, 2.5, 0.04)))
        for part, value in zip(("world switch", "decode", "route", "handler", "resume"), values, strict=True)
    ),
)

ENVIRONMENT = Environment(
    "SVM lab", icount=True, cpu="An <i>old</i> processor", cpus=2, kernel="6.1", kvm={"kvm": {"x": "Y"}}, tsc_mhz=1000.0
)


def document(*rows: Row) -> Document:
    versions = {"nestvmm": "0.1.0", "python": "3.11", "qemu": None}
    return Document(("bench", "--lab", "svm"), "2026-01-01T00:00:00+00:00", 60.0, versions, ENVIRONMENT, rows or ROWS)


ACCOUNT: dict[str, Any] = {
    "height": 3,
    "engine": "direct",
    "exits": 111,
    "seconds": 0.25,
    "rows": [
        account_row
        | {"p99_ns": 1, "served_in_c": account_row["count"] if account_row["level"] == 0 else 0, "mean_ns": 2000.0}
        for account_row in (
            {"level": 2, "who": "<script>", "reason": "io", "qualifier": "0x5000", "count": 10},
            {"level": 0, "who": "UART", "reason": "io", "qualifier": "0x3f8-0x3ff", "count": 90},
            {"level": 0, "who": "UART", "reason": "io", "qualifier": "0x2f8-0x2ff", "count": 11},
        )
    ],
    "unclaimed": [],
    "status": 0,
}


def files(folder: Path) -> list[Path]:
    """A benchmark and an account."""
    (folder / "bench.json").write_text(document().text())
    (folder / "run.json").write_text(json.dumps(ACCOUNT))
    return [folder / "bench.json", folder / "run.json"]
