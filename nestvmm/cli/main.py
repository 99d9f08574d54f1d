"""The `nestvmm` command: finds the subcommand, and turns every error into one message and an exit status."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import click

from nestvmm.cli.signals import Terminated, raise_on_signals
from nestvmm.errors import HostError, NestvmmError, UsageError

__all__ = ["INTERRUPTED", "main"]

#: The exit status after Ctrl-C: 128 + SIGINT, as shells have it.
INTERRUPTED = 130

_COMMANDS = {
    "run": ("nestvmm.cli.run", "run", "Run an image, or a tower of hypervisors with a guest on top."),
    "features": ("nestvmm.cli.features", "features", "Say which features hardware, L0 and each level have."),
    "reasons": ("nestvmm.cli.reasons", "reasons", "List the reasons for which a guest stops, and who may handle them."),
    "doctor": ("nestvmm.cli.doctor", "doctor", "Say what this host can run, and what to do about the rest."),
    "lab": ("nestvmm.cli.lab", "lab", "Run a command on an emulated machine whose KVM nests."),
    "top": ("nestvmm.cli.top", "top", "Show where a running tower's exits go, live."),
    "trace": ("nestvmm.cli.trace", "trace", "Say what a run's trace comes to."),
    "report": ("nestvmm.cli.report", "report", "Make one page of benchmarks and runs."),
    "bench": ("nestvmm.cli.bench", "bench", "Measure exits, handlers and start-up on this host."),
    "agree": ("nestvmm.cli.agree", "agree", "Say how far two benchmarks are apart."),
}


class _LazyGroup(click.Group):
    """Imports a subcommand when it is called: `run` shall not wait for what `bench` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click does it; it may print, for --help."""
        with _ended_by_readers():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Runs the subcommand."""
        with _ended_by_readers():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@contextmanager
def _ended_by_readers() -> Iterator[None]:
    """When nobody reads our output any more, the command ends as SIGPIPE would end it."""
    try:
        yield
    except BrokenPipeError:
        _drop_output()
        raise click.exceptions.Exit(128 + signal.SIGPIPE) from None


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nestvmm")
def _cli() -> None:
    """nestvmm runs towers of hypervisors on /dev/kvm, nested flat.

    \b
    Examples:
      nestvmm doctor
      nestvmm run guests/tower.toml --stats
      nestvmm run bzImage -i initrd.gz -a console=ttyS0 --level console
      nestvmm lab svm -- nestvmm run guests/tower.toml
    """


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its status; all errors end here."""
    _open_standard_streams()
    raise_on_signals()
    sys.exit(_run(arguments))


def _open_standard_streams() -> None:
    """Opens /dev/null in place of standard streams that are closed: else the first files that we open became them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, number, mode in ("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    if isinstance(sys.stdout, TextIOWrapper):
        # a name that its encoding lacks is no error; standard error is like this from the start
        sys.stdout.reconfigure(errors="backslashreplace")


def _run(arguments: list[str] | None) -> int:
    try:
        status = _cli.main(arguments, prog_name="nestvmm", standalone_mode=False)
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = UsageError.status
    except click.ClickException as error:
        status = _failed(_usage_error(error), UsageError.status)
    except (click.Abort, KeyboardInterrupt):
        status = _failed("interrupted", INTERRUPTED)
    except Terminated as error:
        status = _failed(f"ended by {error.signal.name}", 128 + error.signal)
    except NestvmmError as error:
        status = _failed(str(error), error.status)
    except OSError as error:
        status = _failed(_host_error(error), HostError.status)
    except MemoryError:
        status = _failed("this host has not enough memory for that", HostError.status)
    return status if isinstance(status, int) else 0


def _failed(message: str, status: int) -> int:
    try:
        print(f"nestvmm: {message}", file=sys.stderr)
    except OSError:
        _drop_output()
    return status


def _usage_error(error: click.ClickException) -> str:
    """What click says, in the form that all errors have."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    return error.format_message().rstrip(".") + hint


def _drop_output() -> None:
    """What Python still buffers goes nowhere, so that it does not fail again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _host_error(error: OSError) -> str:
    """KvmError is an OSError; it is named only here, so that `--help` does not load the extension."""
    from nestvmm.kvm import KvmError  # noqa: PLC0415 - see above

    if isinstance(error, KvmError):
        return f"{error}; `nestvmm doctor` tells what this host can run"
    if error.errno == errno.ENOSPC and error.filename is None:
        return "standard output: no space is left there"  # files are named by those who write them
    return str(error)
