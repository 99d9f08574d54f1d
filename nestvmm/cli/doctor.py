"""`nestvmm doctor`: what this host can run, and a cause and a cure for everything that it cannot."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from nestvmm.engines.host import Finding, examine

__all__ = ["doctor"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Prints the findings as JSON.")
def doctor(as_json: bool) -> int:
    """Opens /dev/kvm and makes a VM; tells vendor, nesting and the engines that work.

    Exit status 0 when at least one engine works, else 3.
    """
    host = examine()
    if as_json:
        print(json.dumps(asdict(host), indent=2))
    else:
        print(f"processor   {host.vendor} {host.model}")
        print(f"kernel      {host.kernel}")
        print(f"modules     {', '.join(host.modules) or 'kvm, kvm_amd and kvm_intel are built in or absent'}")
        for finding in (host.device, host.nesting, *host.engines):
            _print(finding)
    return 0 if any(engine.works for engine in host.engines) else 3


def _print(finding: Finding) -> None:
    print(f"{finding.name:<11} {'yes' if finding.works else 'no'}{': ' if finding.detail else ''}{finding.detail}")
    if finding.cause:
        print(f"            cause: {finding.cause}")
    if finding.cure:
        print(f"            cure:  {finding.cure}")
