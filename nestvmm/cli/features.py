"""`nestvmm features`: what hardware, L0 and each level have, and where a feature ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from nestvmm.nesting import GuestSpec, TowerSpec, load_tower_file
from nestvmm.nesting.features.report import FeatureReport, FeatureRow, report_features
from nestvmm.nesting.level_option import parse_level

__all__ = ["features"]


@click.command()
@click.argument("tower", metavar="[TOWER.toml]", required=False)
@click.option("--level", "levels", metavar="SPEC", multiple=True, help="Adds a hypervisor, as for `nestvmm run`.")
@click.option(
    "--expose",
    metavar="Ln:+feature,-feature",
    multiple=True,
    help="What level n exposes to the levels above, or hides.",
)
@click.option("--all", "all_", is_flag=True, help="Lists also what neither hardware nor L0 has.")
@click.option("--json", "as_json", is_flag=True, help="Prints everything as JSON.")
def features(tower: str | None, levels: tuple[str, ...], expose: tuple[str, ...], all_: bool, as_json: bool) -> int:
    """Tell which features hardware, L0 and each level of a tower have.

    L0 has a feature because the hardware does ("yes"), because it emulates it ("emulated"), or because the processor
    runs it although KVM does not list it ("runs"). Without a tower file: what a guest at level 1 sees, or one above
    the --level hypervisors. No guest is run.

    \b
    Examples:
      nestvmm features
      nestvmm features guests/tower.toml --expose L1:-popcnt
      nestvmm features --level console --level logger --json
    """
    spec = TowerSpec(GuestSpec(Path())) if tower is None else load_tower_file(Path(tower))
    added = [parse_level(one) for one in levels]
    spec = replace(spec, levels=(*spec.levels, *added), expose=(*spec.expose, *expose))
    report = report_features(spec)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        _print(report, all_=all_)
    return 0


def _print(report: FeatureReport, *, all_: bool) -> None:
    from rich import box  # noqa: PLC0415 - not for --help
    from rich.table import Table  # noqa: PLC0415 - not for --help

    from nestvmm.cli.console import PlainConsole  # noqa: PLC0415 - not for --help

    console = PlainConsole(width=120)
    table = Table(title=f"Features ({report.engine} engine)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("feature", no_wrap=True)
    table.add_column("hardware")
    table.add_column("L0")
    for level in range(1, report.height + 1):
        table.add_column(f"L{level}")
    table.add_column("why not")
    rows = [row for row in report.features if all_ or _somewhere(row)]
    for row in rows:
        seen = ["yes" if level else "-" for level in row.levels]
        table.add_row(row.name, "yes" if row.hardware else "-", _l0(row), *seen, _why(row))
    console.print(table)
    left = [row.name for row in report.features if row not in rows]
    if left:
        console.print(f"nobody has: {', '.join(left)}", soft_wrap=True)


def _somewhere(row: FeatureRow) -> bool:
    """Whether the row tells more than that hardware lacks it and L0 has no emulator."""
    return row.l0 != "no" or "no emulator" not in row.why


def _l0(row: FeatureRow) -> str:
    return {"hardware": "yes", "no": "-"}.get(row.l0, row.l0)


def _why(row: FeatureRow) -> str:
    forced = f" (this KVM shows {row.shown} at CPL 0 all the same)" if row.forced else ""
    return row.why + forced
