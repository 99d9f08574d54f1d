"""Cases of mixed_cases.py: preemption timers of Python levels above an image. Only VMX has them."""

from __future__ import annotations

from typing import Any

import guest_code as guest
from mixed_memory import OFFSET
from mixed_run import PORT, Case, Silent, own, run

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result

ALL = (1 << 64) - 1
CYCLES = 1 << 16


class Timing(Silent):
    """Asks for an event on an access to its port, and lets its guest go on when it comes.

    at:  where its guest waits for result `number`
    """

    def __init__(self, port: int = PORT, number: int = 0, at: int = guest.RESULTS) -> None:
        super().__init__()
        self._port = port
        self._at = at + 8 * number

    def claims(self) -> Any:
        yield ExitReason.IO, self._port, self._port, None, self.ask
        yield ExitReason.PREEMPTION_TIMER, 0, ALL, None, self.expired

    def ask(self, event: Event) -> Result:
        self.guest.request_timer(CYCLES)
        return HANDLED

    def expired(self, event: Event) -> Result:
        self.seen.append([event.reason.value, event.level, event.qualifier, event.raw])
        self.guest.write(self._at, b"\1")
        return HANDLED


class Leaving(Timing):
    """Leaves the event to the levels below it, which hear nothing of it."""

    def expired(self, event: Event) -> Result:
        super().expired(event)
        return Result.declined()


# With interrupts on, for Bochs hangs where a guest of KVM spins without.
WAIT = guest.STI + guest.out(PORT, 0) + guest.until(0)
BOTH = guest.STI + guest.out(PORT, 0) + guest.out(PORT + 1, 0) + guest.until(0) + guest.until(1)
BETWEEN = own(Timing, at=guest.RESULTS + OFFSET)

CASES: dict[str, Case] = {
    "timer": lambda: run(["image", Timing], WAIT, 1),
    "timer declined": lambda: run(["image", Leaving], WAIT, 1),
    "timer between images": lambda: run(["image", BETWEEN, "image"], WAIT, 1),
    "two timers": lambda: run(
        ["image", own(Timing, port=PORT + 1, number=1, at=guest.RESULTS + OFFSET), "image", Timing], BOTH, 2
    ),
    "timers below and above an image": lambda: run(
        [own(Timing, port=PORT + 1, number=1, at=guest.RESULTS + OFFSET), "image", Timing], BOTH, 2
    ),
}
