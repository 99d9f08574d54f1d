"""`python -m nestvmm`: the command line, where the script of that name is not installed."""

from nestvmm.cli import main

__all__: list[str] = []

main()
