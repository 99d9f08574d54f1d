"""Reading traces again, and what they come to."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm.errors import UsageError
from nestvmm.trace.reader import Traced, read_trace
from nestvmm.trace.summary import Group, parse_filter, summarize

UART = Traced("io", 0x3F8, "write", 0, "UART", True, "out dx,al", 100, 7000, 10, 20, 60, 10)
READ = Traced("io", 0x5000, "read", 2, "Answers", False, "in al,dx", 4000, 7000, 30, 20, 3900, 50)
MSR = Traced("rdmsr", 0x10, "read", 2, "Answers", False, "rdmsr", 5000, 7000, 100, 0, 4900, 0)


def jsonl(**changes: Any) -> dict[str, Any]:
    fields = {"n": 0, "reason": "io", "qualifier": 0x3F8, "direction": "write", "handler": 0, "who": "UART"}
    parts = {"guest_ns": 7000, "decode_ns": 10, "route_ns": 20, "handle_ns": 60, "complete_ns": 10}
    return {**fields, **parts, "in_c": True, "instruction": "out dx,al", **changes}


def slices(**changes: Any) -> list[dict[str, Any]]:
    fields = {"n": 0, "reason": "io", "qualifier": "0x3f8", "direction": "write", "level": 0, "who": "UART"}
    parts = {"guest_us": 7.0, "decode_us": 0.010, "route_us": 0.020, "handle_us": 0.060, "complete_us": 0.010}
    arguments = {**fields, **parts, "in_c": True, "instruction": "out dx,al", **changes}
    return [{"ph": "X", "cat": "guest"}, {"ph": "X", "cat": "exit", "args": arguments}, {"ph": "X", "cat": "handler"}]


def chrome(folder: Path, events: list[dict[str, Any]], end: str = "\n]}\n") -> Path:
    path = folder / "trace.json"
    opening = '{"displayTimeUnit":"ns","otherData":{},"traceEvents":[\n'
    path.write_text(opening + ",\n".join(map(json.dumps, [{"ph": "M"}, *events])) + end)
    return path


def test_both_formats_are_read(tmp_path: Path) -> None:
    lines = tmp_path / "trace.jsonl"
    lines.write_text(json.dumps(jsonl()) + "\n" + json.dumps(jsonl(in_c=False, handler=3)) + "\n")
    found = list(read_trace(lines))
    assert found[0] == UART
    assert (found[1].in_c, found[1].level) == (False, 3)
    assert list(read_trace(chrome(tmp_path, slices()))) == [UART]


@pytest.mark.parametrize("end", ["", ',\n{"ph": "X", "ca', "\n]"])
def test_a_trace_that_was_cut_off(tmp_path: Path, end: str) -> None:
    assert list(read_trace(chrome(tmp_path, slices(), end))) == [UART]
    lines = tmp_path / "trace.jsonl"
    lines.write_text(json.dumps(jsonl()) + '\n{"n": 1, "rea')
    assert list(read_trace(lines)) == [UART]


def test_an_empty_trace(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    assert list(read_trace(tmp_path / "empty")) == []
    assert list(read_trace(chrome(tmp_path, []))) == []


@pytest.mark.parametrize(
    "text",
    [
        "# readme\n",
        '{"a": 1}\n',
        "{}\n",
        "[1, 2]\n",
        "{nonsense}\n",
        '{"ph": "X", "cat": "exit"}\n',
        json.dumps(jsonl(qualifier=None)) + "\n",
        "\x00\xff\n",
        "{" * 100_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000 + "\n",
        json.dumps(jsonl(decode_ns=float("inf"))) + "\n",
    ],
)
def test_what_is_no_trace_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "other").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"/other:1: not a trace that `nestvmm run --trace` wrote$"):
        list(read_trace(tmp_path / "other"))


@pytest.mark.parametrize("text", ["[]", "[{", "half a line"])
def test_half_a_line_of_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "other").write_text(text)
    with pytest.raises(UsageError, match="not a trace"):
        list(read_trace(tmp_path / "other"))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"^trace file /none/x: No such file or directory$"):
        list(read_trace(Path("/none/x")))


@given(st.binary(max_size=300))
def test_any_bytes_are_events_or_one_error(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with suppress(UsageError):
            assert list(read_trace(Path(file.name))) == []


def test_a_summary_by_handler_and_reason() -> None:
    found = summarize([UART, READ, UART, MSR, READ], parse_filter([])).as_dict()
    assert (found["events"], found["of"]) == (5, 5)
    assert [(one["level"], one["who"], one["reason"], one["count"], one["in_c"]) for one in found["groups"]] == [
        (2, "Answers", "io", 2, 0),
        (2, "Answers", "rdmsr", 1, 0),
        (0, "UART", "io", 2, 2),
    ]
    first = found["groups"][0]
    assert [first[f"{part}_ns"] for part in ("decode", "route", "handle", "complete")] == [30, 20, 3900, 50]
    assert (first["total_ns"], first["minimum_ns"]) == (4000, 4000)
    assert found["instructions"] == {"out dx,al": 2, "in al,dx": 2, "rdmsr": 1}


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        (["reason=io"], [UART, READ]),
        (["reason=io,level=L2"], [READ]),
        (["level=0"], [UART]),
        (["reason=io,reason=rdmsr", "level=2"], [READ, MSR]),
        (["in_c=no"], [READ, MSR]),
        (["in_c=yes"], [UART]),
        (["who=answ"], [READ, MSR]),
        (["qualifier=0x10"], [MSR]),
        (["qualifier=0x3f8-0x5000"], [UART, READ]),
        (["instruction=al"], [UART, READ]),
        (["direction=write"], [UART]),
    ],
)
def test_filters(filters: list[str], kept: list[Traced]) -> None:
    wanted = parse_filter(filters)
    assert [event for event in (UART, READ, MSR) if wanted(event)] == kept
    assert summarize([UART, READ, MSR], wanted).events == len(kept)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("level", r"^--filter level: 'level' is not KEY=VALUE with a key of reason, level, "),
        ("port=1", r"^--filter port=1: 'port=1' is not KEY=VALUE"),
        ("level=two", r"^--filter level=two: 'two' is no level$"),
        ("qualifier=0xzz", r"^--filter qualifier=0xzz: '0xzz' is no qualifier$"),
        ("instruction=al,", r"^--filter instruction=al,: '' is not KEY=VALUE"),
        ("in_c=1", r"^--filter in_c=1: '1' is no in_c$"),
        ("reason=out", r"^--filter reason=out: 'out' is no reason$"),
        ("direction=up", r"^--filter direction=up: 'up' is no direction$"),
    ],
)
def test_bad_filters(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_filter([text])


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=50))
def test_quantiles_are_good_to_a_32nd(latencies: list[int]) -> None:
    group = Group("io", 0, "x")
    for latency in latencies:
        group.add(Traced("io", 0, "read", 0, "x", True, "", latency, 0, 0, 0, latency, 0))
    ordered = sorted(latencies)
    for share in (0.5, 0.99, 1.0):
        true = next(value for rank, value in enumerate(ordered, 1) if rank >= share * len(ordered))
        assert abs(group.quantile(share) - true) <= max(true / 32, 0.5)
