"""Cases of mixed_cases.py: a level below all images steps through the lowest one and what that runs."""

from __future__ import annotations

from typing import Any

import guest_code as guest
from mixed_run import Case, Silent, asks, run

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result

BEGIN, END = 0x6000, 0x6001
STEP, BREAK = 1, 3


class Stepping(Silent):
    """Sees each instruction, and INT3, from an OUT to BEGIN on until one to END; passes INT3 on."""

    begin, end = BEGIN, END
    on = False

    def claims(self) -> Any:
        yield ExitReason.IO, self.begin, self.end, None, self.turn
        if self.on:
            yield ExitReason.DEBUG, STEP, BREAK, None, self.see

    def turn(self, event: Event) -> Result:
        self.on = event.qualifier == self.begin
        self.guest.claims_changed()
        return HANDLED

    def see(self, event: Event) -> Result:
        self.seen.append([event.qualifier, self.guest.regs.rip - guest.CODE])
        return Result.declined() if event.qualifier == BREAK else HANDLED


CODE = guest.out(BEGIN, 0) + guest.NOP + b"\x9c\x58" + guest.keep(3) + b"\xcc" + asks(2) + guest.out(END, 0)
HANDLERS = {BREAK: guest.add(4) + b"\x48\x8b\x04\x24" + guest.keep(5) + guest.IRETQ}

CASES: dict[str, Case] = {
    "stepped with its image": lambda: run([Stepping, "image"], CODE, 6, handlers=HANDLERS),
    "not stepped with its image": lambda: run([Silent, "image"], CODE, 6, handlers=HANDLERS),
}
