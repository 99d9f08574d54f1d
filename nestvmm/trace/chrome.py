"""A run's events in Chrome's trace-event format, which ui.perfetto.dev opens.

Each level is a process with a thread for each vCPU. An event is three slices: level n's, from its entry to the exit;
L0's, from there until the answer is level n's, with all that is known of the event; and within that time, at the level
that handled it, the handler's, to which an arrow leads from level n's. One line holds one slice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from nestvmm.nesting import Tower
from nestvmm.trace.site import Site
from nestvmm.trace.text import Hole, Us, text_with_holes
from nestvmm.x86.exit_reason import REASONS, Qualifier

__all__ = ["EXIT", "GUEST", "HANDLER", "Chrome"]

#: Categories of the slices.
GUEST: Final = "guest"
EXIT: Final = "exit"
HANDLER: Final = "handler"

# Names alone would not do: the same port, but another address each time.
_NUMBERED: Final = (Qualifier.PHYSICAL, Qualifier.NONE)


class Chrome:
    """Slices, tracks and arrows."""

    closing = b"\n]}\n"

    @staticmethod
    def opening(tower: Tower) -> bytes:
        """The tracks: level n on top, L0 below."""
        names = {0: "L0 nestvmm", tower.height: f"L{tower.height} guest"}
        names |= {level: f"L{level} {tower.name_of(level)}" for level in range(1, tower.height)}
        events = []
        for level in range(tower.height, -1, -1):
            order: dict[str, object] = {"sort_index": tower.height - level}
            events += [
                _named("process_name", level, {"name": names[level]}),
                _named("process_sort_index", level, order),
                _named("thread_name", level, {"name": "vCPU 0"}),
            ]
        about = {"engine": tower.engine.name, "height": tower.height, "generator": "nestvmm"}
        opening = f'{{"displayTimeUnit":"ns","otherData":{json.dumps(about)},"traceEvents":[\n'
        return opening.encode() + ",\n".join(json.dumps(event) for event in events).encode()

    @staticmethod
    def line(site: Site) -> bytes:
        """The slices of each event of a site."""
        reason = site.reason.label
        name = reason if REASONS[site.reason].qualifier in _NUMBERED else f"{reason} {Hole.QUALIFIER_HEX.string_mark}"
        arguments = {
            "n": Hole.SEQUENCE.mark,
            "reason": reason,
            "qualifier": f"{Hole.QUALIFIER_HEX.string_mark}",
            "direction": site.direction.name.lower(),
            "size": site.size,
            "count": Hole.COUNT.mark,
            "value": Hole.VALUE.mark,
            "info": Hole.INFO.mark,
            "rip": f"{site.found.rip:#x}",
            "instruction": site.found.text,
            "raw": site.raw,
            "level": site.handler,
            "who": site.who,
            "in_c": Hole.IN_C.mark,
            "entries": Hole.ENTRIES.mark,
            "guest_us": Us.GUEST.mark,
            "decode_us": Us.DECODE.mark,
            "route_us": Us.ROUTE.mark,
            "handle_us": Us.HANDLE.mark,
            "complete_us": Us.COMPLETE.mark,
        }
        arrow = {"bind_id": Hole.SEQUENCE.mark}
        slices = (
            _slice(GUEST, "guest", site.level, Us.AT_ENTERED, Us.GUEST) | arrow | {"flow_out": True},
            _slice(EXIT, name, 0, Us.AT_EXIT, Us.TOTAL) | {"args": arguments},
            _slice(HANDLER, site.who, site.handler, Us.AT_ROUTED, Us.HANDLE) | arrow | {"flow_in": True},
        )
        return b"".join(b",\n" + text_with_holes(one) for one in slices)


def _track(level: int) -> dict[str, object]:
    """Numbers of a level's process and of its first thread, vCPU 0; number 0 would be the idle task's."""
    return {"pid": level + 1, "tid": level + 1}


def _named(kind: str, level: int, arguments: Mapping[str, object]) -> dict[str, object]:
    return {"ph": "M", "name": kind, **_track(level), "args": arguments}


def _slice(category: str, name: str, level: int, at: Us, duration: Us) -> dict[str, object]:
    return {"ph": "X", "cat": category, "name": name, **_track(level), "ts": at.mark, "dur": duration.mark}
