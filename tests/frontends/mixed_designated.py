"""Cases of mixed_cases.py: designations of what is at physical addresses of levels above images."""

from __future__ import annotations

import guest_code as guest
from mixed_memory import AT, OFFSET, PAGE, Device, with_memory
from mixed_run import Case, Silent, run

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result
from nestvmm.nesting.memory import Region


class Designated(Silent):
    """Takes what is designated: accesses read as 0x5a, and pages are given."""

    def designated(self, event: Event) -> Result:
        self.note(event)
        if event.reason is ExitReason.NESTED_PAGE_FAULT:
            page = event.qualifier & -PAGE
            self.guest.map(page, PAGE, page)
            return HANDLED
        return Result.read(0x5A)


def where(reason: str, level: int, address: int = AT) -> list[str]:
    return [f"{reason}:{address:#x}+{PAGE:#x}=L{level}"]


READ = guest.load(AT, 4) + guest.keep(0)
USE = guest.store(AT, 0x77) + READ

CASES: dict[str, Case] = {
    "device designated": lambda: run(["image", Designated], READ, 1, where("mmio", 2)),
    "device designated between images": lambda: run(
        ["image", Designated, "image"], READ, 1, where("mmio", 2, AT + OFFSET)
    ),
    "device designated to a lower level": lambda: run(["image", Designated, Device], READ, 1, where("mmio", 2)),
    "device designated to an image": lambda: run(["image", Device], USE, 1, where("mmio", 1)),
    "device designated to L0": lambda: run(["image", Device], READ, 1, ["mmio=L0"]),
    "device designated below an image": lambda: run([Designated, "image", Device], READ, 1, ["mmio=L1"]),
    "fault designated": lambda: run(
        ["image", with_memory(Designated, Region(0, AT, 0))], USE, 1, where("nested-page-fault", 2)
    ),
    "fault designated between images": lambda: run(
        ["image", with_memory(Designated, Region(0, AT + OFFSET, 0)), "image"],
        USE,
        1,
        where("nested-page-fault", 2, AT + OFFSET),
    ),
}
