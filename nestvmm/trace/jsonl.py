"""A run's events as JSON lines."""

from __future__ import annotations

from nestvmm.nesting import Tower
from nestvmm.trace.site import Site
from nestvmm.trace.text import Hole, Us, ns, text_with_holes

__all__ = ["JsonLines"]


class JsonLines:
    """One line for each event.

    A line has: n (0, 1, 2 ...), ticks (TSC at the exit), ns (to its completion), reason, raw (the engine's code),
    level, qualifier, direction, size, count, value, info (error code, or what the reason's row says), handler (its
    level), who, in_c, rip and instruction (empty where nobody can tell), entries (of level n since the event before:
    more than 1 for what L0 does by itself); and in nanoseconds guest_ns (from the entry to the exit), decode_ns,
    route_ns, handle_ns, complete_ns, which are the parts of ns.
    """

    closing = b""

    @staticmethod
    def opening(tower: Tower) -> bytes:
        """Nothing."""
        return b""

    @staticmethod
    def line(site: Site) -> bytes:
        """What is written of each event of a site."""
        fields = {
            "n": Hole.SEQUENCE.mark,
            "ticks": Hole.TICKS.mark,
            "ns": ns(Us.TOTAL),
            "reason": site.reason.label,
            "raw": site.raw,
            "level": site.level,
            "qualifier": Hole.QUALIFIER.mark,
            "direction": site.direction.name.lower(),
            "size": site.size,
            "count": Hole.COUNT.mark,
            "value": Hole.VALUE.mark,
            "info": Hole.INFO.mark,
            "handler": site.handler,
            "who": site.who,
            "in_c": Hole.IN_C.mark,
            "rip": site.found.rip,
            "instruction": site.found.text,
            "entries": Hole.ENTRIES.mark,
            "guest_ns": ns(Us.GUEST),
            "decode_ns": ns(Us.DECODE),
            "route_ns": ns(Us.ROUTE),
            "handle_ns": ns(Us.HANDLE),
            "complete_ns": ns(Us.COMPLETE),
        }
        return text_with_holes(fields) + b"\n"
