"""The command line: `nestvmm run`, `features`, `doctor`, `lab`, `bench`. Each command is imported when it is called.

main      the group, and where every error becomes one message and an exit status
run       towers and images
doctor    what this host can do, and the cure for what it cannot
"""

from nestvmm.cli.main import main

__all__ = ["main"]
