"""How long the tests wait for what must come."""

__all__ = ["PATIENCE"]

#: Seconds after which something hangs, however loaded the machine is. What comes ends the wait: nothing is measured.
PATIENCE = 300.0
