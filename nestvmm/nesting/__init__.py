"""Towers and their events: the first method of nested virtualization, flat; features/ is the second one.

    spec, tower_file, notation, sizes    what a user asks for
    tower                                the levels, made of that and ready to run
    memory, levels                       maps between levels, composed to memory slots; addresses carried between levels
    policy                               what each level claims, and what the user designates
    images, image_guest                  levels of machine code, and what a hypervisor above one sees of its guest
    designation                          which level handles an event: pure
    flat                                 the same as the table that C looks up
    runner                               each event to its level, its effects to the levels above, level n resumed
    attend                               meanwhile: console input, the timeout
    dispatch                             makes the loop of native/python/dispatch.c, which calls handlers
    features/                            what each level has, and L0's emulators of what the hardware lacks
    guest_view, propagation              what a hypervisor sees of the level above it
    monitor                              what L0 does itself
    account                              who handled how many, and how fast

An exit's way: native/vcpu.c (run, decode, look up, serve in C) -> native/python/dispatch.c -> a hypervisor's handler ->
dispatch.c -> vcpu.c; and through the runner where the handler did not just handle it.
"""

from nestvmm.nesting.account import Account, Clock
from nestvmm.nesting.runner import Runner, RunResult
from nestvmm.nesting.spec import GuestSpec, LevelSpec, TowerSpec
from nestvmm.nesting.tower import Tower
from nestvmm.nesting.tower_file import load_tower_file, parse_tower

__all__ = [
    "Account",
    "Clock",
    "GuestSpec",
    "LevelSpec",
    "RunResult",
    "Runner",
    "Tower",
    "TowerSpec",
    "load_tower_file",
    "parse_tower",
]
