"""`nestvmm run`: an image, or a tower file."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import click

from nestvmm.cli.account_file import account_file, write_account
from nestvmm.cli.observed import observed
from nestvmm.cli.seconds import seconds
from nestvmm.cli.signals import ended_by_signals
from nestvmm.cli.terminal import console_input
from nestvmm.errors import UsageError
from nestvmm.nesting import Account, Clock, GuestSpec, Runner, RunResult, Tower, TowerSpec, load_tower_file
from nestvmm.nesting.level_option import parse_level
from nestvmm.nesting.sizes import parse_number, parse_size

__all__ = ["run"]

_EXIT_STATUS = """\b
Exit status:
  N    what the guest wrote to the debug-exit port 0xf4 (0 is success)
  2    usage          3    this host or image cannot run
  4    a hypervisor failed, or nobody claimed an access (unclaimed = error)
  124  timeout        255  the guest died
  130  Ctrl-C         141  nobody reads the output any more
  129, 143            ended by SIGHUP, by SIGTERM
"""


@click.command(epilog=_EXIT_STATUS)
@click.argument("what", metavar="[IMAGE|TOWER.toml]", required=False)
@click.option("-k", "--kernel", metavar="FILE", help="The guest's image: ELF64, Multiboot, bzImage.")
@click.option("-a", "--append", metavar="TEXT", help="The guest's command line.")
@click.option("-i", "--initrd", metavar="FILE", help="Initial RAM disk; Multiboot: FILE ARGS,FILE2 ...")
@click.option("-m", "--mem", metavar="SIZE", help="L0's RAM: K, M or G; a bare number is MiB. [128M]")
@click.option("--address", metavar="ADDRESS", help="Load the image as a raw binary at this guest-physical address.")
@click.option(
    "-M", "--machine", type=click.Choice(["auto", "pc", "bare"]), help="pc: irqchip and PIT; bare: none. [auto]"
)
@click.option(
    "--level",
    "levels",
    metavar="SPEC",
    multiple=True,
    help="Adds a hypervisor: console, cpuid-policy, debug-console, logger, msr-policy, module:Class or file.py:Class, "
    "then ,option=value ...; or image=FILE, then ,append=TEXT. The first is level 1.",
)
@click.option(
    "--designate", metavar="REASON[:QUALIFIER]=Ln", multiple=True, help="Sends events to level n at the highest."
)
@click.option(
    "--expose",
    metavar="Ln:+feature,-feature",
    multiple=True,
    help="What level n exposes to the levels above, or hides.",
)
@click.option("--engine", type=click.Choice(["auto", "direct", "svm", "vmx"]), help="How level n runs. [auto]")
@click.option("--unclaimed", type=click.Choice(["ignore", "error"]), help="Accesses that nobody claims. [ignore]")
@click.option("--timeout", metavar="S", type=seconds, help="Ends the run after S seconds with status 124.")
@click.option("--stats", is_flag=True, help="Prints who handled what, on standard error.")
@click.option("--stats-interval", metavar="S", type=float, help="Shows exits per second every S seconds.")
@click.option("--stats-jsonl", metavar="FILE", help="Writes them as JSON lines instead.")
@click.option("--stats-prometheus", metavar="FILE", help="Keeps the counters in a file as Prometheus's text instead.")
@click.option(
    "--json", "json_file", metavar="FILE", help="Writes the account as JSON; `-`: standard output, without the guest's."
)
@click.option("--trace", metavar="FILE", help="Writes each event: FILE.json for ui.perfetto.dev, else JSON lines.")
@click.option("--dry-run", is_flag=True, help="Builds the tower, says what would run, and stops.")
@click.option("--raw-exit-status", is_flag=True, help="QEMU's rule for the debug-exit port: (value << 1) | 1.")
def run(**options: object) -> int:
    """Run an IMAGE at level 1, or at the top of --level hypervisors, or a tower file.

    \b
    Examples:
      nestvmm run guests/tower.toml --stats
      nestvmm run hello.elf
      nestvmm run bzImage -i initrd.gz -a console=ttyS0 -m 512
      nestvmm run test.elf --level msr-policy,first=0x10 --level console
      nestvmm run test.elf --level my.py:Mine --designate io:0x80=L0 --json -
      nestvmm run test.elf --level image=minivisor-svm.elf --level logger
    """
    spec = _spec(options)
    return _run(spec, options)


def _spec(options: dict[str, object]) -> TowerSpec:
    """The tower that the command line describes: the tower file's, with what the options change."""

    def text(name: str) -> str | None:
        value = options[name]
        return None if value is None else str(value)

    what, kernel = text("what") or None, text("kernel") or None
    if what is not None and what.endswith(".toml"):
        spec = load_tower_file(Path(what))
        if kernel is not None:
            spec = replace(spec, guest=replace(spec.guest, kernel=Path(kernel)))
    elif (what is None) == (kernel is None):
        raise UsageError("name one image: nestvmm run IMAGE, or -k IMAGE, or a TOWER.toml; see nestvmm run --help")
    else:
        spec = TowerSpec(GuestSpec(Path(what or str(kernel))))
    guest = spec.guest
    if (append := text("append")) is not None:
        guest = replace(guest, append=append)
    if (initrd := text("initrd")) is not None:
        guest = replace(guest, initrd=initrd)
    if (memory := text("mem")) is not None:
        guest = replace(guest, memory=parse_size(memory, "--mem"))
    if (address := text("address")) is not None:
        guest = replace(guest, address=parse_number(address, "--address"))
    levels = [parse_level(one) for one in _many(options, "levels")]
    timeout = options["timeout"]
    return replace(
        spec,
        guest=guest,
        levels=(*spec.levels, *levels),
        designate=(*spec.designate, *_many(options, "designate")),
        expose=(*spec.expose, *_many(options, "expose")),
        engine=text("engine") or spec.engine,
        machine=text("machine") or spec.machine,
        unclaimed=text("unclaimed") or spec.unclaimed,
        timeout=timeout if isinstance(timeout, float) else spec.timeout,
    )


def _many(options: dict[str, object], name: str) -> tuple[str, ...]:
    values = options[name]
    return values if isinstance(values, tuple) else ()


def _run(spec: TowerSpec, options: dict[str, object]) -> int:
    raw_exit_status = bool(options["raw_exit_status"])
    if options["dry_run"]:
        with Tower(spec, raw_exit_status=raw_exit_status) as tower:
            print(tower.describe(), file=sys.stderr)
        return 0
    json_file, trace = options["json_file"], options["trace"]
    with account_file(None if json_file is None else str(json_file)) as file:
        with ExitStack() as stack:
            clock = Clock()
            tower = stack.enter_context(Tower(spec, raw_exit_status=raw_exit_status))
            drain = None
            if trace is not None:
                from nestvmm.trace import Recorder  # noqa: PLC0415 - only runs that trace wait for it

                drain = stack.enter_context(Recorder(Path(str(trace)), tower, clock)).drain
            stack.enter_context(observed(tower, clock, options))
            result, taken = _go(Runner(tower, drain=drain))
            account = Account.of(tower, clock, taken)
        _report(account, result, stats=bool(options["stats"]), file=file)
    return result.status


def _go(runner: Runner) -> tuple[RunResult, float]:
    started = time.monotonic()
    with ended_by_signals(runner.stop) as caught, console_input(0) as stdin:
        result = runner.run(stdin=stdin, stdout=1)
    if caught:
        result = RunResult(128 + caught[0], f"ended by {caught[0].name}")
    return result, time.monotonic() - started


def _report(account: Account, result: RunResult, *, stats: bool, file: TextIO | None) -> None:
    if result.message:
        print(f"nestvmm: {result.message}", file=sys.stderr)
    if account.output_lost:
        print(f"nestvmm: nobody took {account.output_lost} bytes of the guest's output", file=sys.stderr)
    if stats:
        from nestvmm.cli.tables import print_account  # noqa: PLC0415 - rich takes as long to import as a guest to run

        print_account(account)
    if file is not None:
        write_account(file, {**account.as_dict(), "status": result.status, "message": result.message})
