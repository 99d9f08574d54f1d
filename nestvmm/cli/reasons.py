"""`nestvmm reasons`: every reason for which a guest stops, the exit codes behind it, and who may handle each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from nestvmm.errors import UsageError
from nestvmm.x86.exit_reason import REASONS, ExitReason
from nestvmm.x86.exit_row import ExitRow
from nestvmm.x86.svm_exits import SVM_EXITS
from nestvmm.x86.vmx_exits import VMX_EXITS

__all__ = ["reasons"]

_TABLES: Mapping[str, Mapping[int, ExitRow]] = {"svm": SVM_EXITS, "vmx": VMX_EXITS}


@click.command()
@click.argument("names", metavar="[REASON]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Prints everything as JSON.")
def reasons(names: tuple[str, ...], as_json: bool) -> int:
    """List the exit reasons that towers designate, and what the manuals call them.

    A reason's qualifier is what a designation narrows it by, as in `--designate io:0x3f8-0x3ff=L2`. Given one or more
    reasons: each of their SVM exit codes and VMX basic exit reasons, what makes the processor exit, who may handle it
    and why.

    \b
    Examples:
      nestvmm reasons
      nestvmm reasons hlt cr-write
      nestvmm reasons --json
    """
    chosen = [_reason(name) for name in names]
    if as_json:
        print(json.dumps([_as_dict(reason) for reason in chosen or ExitReason], indent=2))
    elif chosen:
        _print_rows(chosen)
    else:
        _print_reasons()
    return 0


def _reason(name: str) -> ExitReason:
    try:
        return ExitReason.from_label(name)
    except KeyError:
        raise UsageError(f"unknown exit reason {name!r:.60}; `nestvmm reasons` lists them") from None


def _rows(reason: ExitReason, table: Mapping[int, ExitRow]) -> list[ExitRow]:
    return [row for row in table.values() if reason in row.reasons]


def _as_dict(reason: ExitReason) -> dict[str, Any]:
    row = REASONS[reason]
    return {
        "reason": reason.label,
        "engines": sorted(row.engines),
        "qualifier": row.qualifier.value,
        "meaning": row.meaning,
        **{vendor: [_exit_as_dict(one) for one in _rows(reason, table)] for vendor, table in _TABLES.items()},
    }


def _exit_as_dict(row: ExitRow) -> dict[str, Any]:
    return {
        "code": row.code,
        "name": row.name,
        "qualifier": row.qualifier(),
        "length": row.length,
        "handlers": row.handlers.value,
        "why": row.why,
        "intercepts": [one.label for one in row.intercepts],
    }


def _print_reasons() -> None:
    columns = ("reason", "engines", "qualifier", "SVM exit codes", "VMX exit reasons", "what happened")
    _print(
        columns,
        (
            (
                reason.label,
                " ".join(sorted(row.engines)) or "-",
                row.qualifier.value.partition(":")[0],
                _ranges([one.code for one in _rows(reason, SVM_EXITS)], "#x"),
                _ranges([one.code for one in _rows(reason, VMX_EXITS)], "d"),
                row.meaning,
            )
            for reason, row in REASONS.items()
        ),
    )


def _print_rows(chosen: Sequence[ExitReason]) -> None:
    columns = ("reason", "exit", "name", "bytes", "intercepted by", "handled by", "why")
    _print(
        columns,
        (
            (
                reason.label,
                f"{vendor} {_code(one.code, '#x' if vendor == 'svm' else 'd')}",
                one.name,
                str(one.length or "-"),
                ", ".join(intercept.label for intercept in one.intercepts) or "always",
                one.handlers.value,
                one.why,
            )
            for reason in chosen
            for vendor, table in _TABLES.items()
            for one in _rows(reason, table)
        ),
    )


def _print(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box  # noqa: PLC0415 - not for --help
    from rich.table import Table  # noqa: PLC0415 - not for --help

    from nestvmm.cli.console import PlainConsole  # noqa: PLC0415 - not for --help

    console = PlainConsole(width=220)
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _code(code: int, form: str) -> str:
    """The codes of a refused entry are negative numbers in the manual."""
    return str(code - (1 << 64)) if code >> 63 else format(code, form)


def _ranges(codes: Sequence[int], form: str) -> str:
    """Ascending codes, those that follow one another as `first-last`; `-` for none."""
    found: list[list[int]] = []
    for code in codes:
        if found and code == found[-1][-1] + 1:
            found[-1].append(code)
        else:
            found.append([code])
    texts = (
        _code(run[0], form) + (f"{' to ' if run[0] >> 63 else '-'}{_code(run[-1], form)}" if run[1:] else "")
        for run in found
    )
    return ", ".join(texts) or "-"
