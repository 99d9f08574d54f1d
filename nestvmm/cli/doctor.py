"""`nestvmm doctor`: what this host and its labs can run, and a cause and a cure for everything that they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import click

from nestvmm.engines.host import Finding, examine
from nestvmm.errors import HostError
from nestvmm.lab import svm, vmx

__all__ = ["doctor"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Prints the findings as JSON.")
def doctor(as_json: bool) -> int:
    """Open /dev/kvm, make a VM, and tell what this host can run, what is in the way, and the cure.

    Exit status 0 when at least one engine works, else 3.
    """
    host = examine()
    labs = [_lab("svm", svm.check), _lab("vmx", vmx.check)]
    if as_json:
        print(json.dumps({**asdict(host), "labs": [asdict(lab) for lab in labs]}, indent=2))
    else:
        print(f"processor   {host.vendor} {host.model}")
        print(f"kernel      {host.kernel}")
        print(f"modules     {', '.join(host.modules) or 'kvm, kvm_amd and kvm_intel are built in or absent'}")
        for finding in (host.device, host.nesting, *host.engines, *labs):
            _print(finding)
    return 0 if any(engine.works for engine in host.engines) else 3


def _lab(kind: str, check: Callable[[], None]) -> Finding:
    """Whether what an emulated machine needs is installed."""
    try:
        check()
    except HostError as error:
        cause, _, cure = str(error).rpartition(": ")
        return Finding(f"{kind} lab", False, cause=cause, cure=cure)
    return Finding(f"{kind} lab", True, f"nestvmm lab {kind} -- COMMAND")


def _print(finding: Finding) -> None:
    print(f"{finding.name:<11} {'yes' if finding.works else 'no'}{': ' if finding.detail else ''}{finding.detail}")
    if finding.cause:
        print(f"            cause: {finding.cause}")
    if finding.cure:
        print(f"            cure:  {finding.cure}")
