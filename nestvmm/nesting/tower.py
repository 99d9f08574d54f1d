"""A tower: hypervisors at levels 1 to n-1 and the guest at level n, made from a TowerSpec and ready to run.

spec -> hypervisors -> their maps -> memory slots -.
              `-> their claims -> designation -> flat table -> engine runs level n
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from typing import Any

from nestvmm._native import ffi
from nestvmm.devices import MP_TABLE_ADDRESS, Platform, mp_table, platform
from nestvmm.engines import Engine, EngineConfig
from nestvmm.errors import HostError, HypervisorError, ImageError, UsageError
from nestvmm.hypervisors import Guest, GuestAccessError, Hypervisor
from nestvmm.hypervisors.blame import blaming
from nestvmm.kvm import HostMemory, KvmError
from nestvmm.loaders import Image, MemoryRange, load, read_file
from nestvmm.nesting.answered import amend_answer, asking_claims
from nestvmm.nesting.designation import Claim
from nestvmm.nesting.dispatch import dispatch_of
from nestvmm.nesting.features import (
    Cpu,
    Refusal,
    emulated_msrs,
    emulates_instructions,
    expose,
    feature_claims,
    requests,
)
from nestvmm.nesting.flat import FlatTable, compile_table
from nestvmm.nesting.guest_view import GuestView, VcpuState
from nestvmm.nesting.image_guest import ImageGuestView, ImageMemory, MachineMemory
from nestvmm.nesting.images import check_between, check_images, engine_for, make_levels, name_of, stacked
from nestvmm.nesting.levels import LevelMemory
from nestvmm.nesting.memory import MemoryMap, Slot
from nestvmm.nesting.monitor import device_claims, engine_claims, monitor_claims
from nestvmm.nesting.policy import Policy
from nestvmm.nesting.propagation import Effects
from nestvmm.nesting.spec import LevelSpec, TowerSpec
from nestvmm.nesting.tower_maps import TowerMaps
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.instruction import instruction_key
from nestvmm.x86.rights import Rights
from nestvmm.x86.state import enter

__all__ = ["Tower"]

# Instructions whose claims are remembered; a guest chooses how many there are.
_INSTRUCTIONS = 4096

# Guest memory costs nothing until it is touched, but KVM's own lists of its pages do.
_OVERCOMMIT = 16


class Tower:
    """An open tower; a context manager that stops its hypervisors and frees the VM.

    Raises UsageError (options, designations), HostError (host, image), HypervisorError (a hypervisor's own code).
    """

    flat: FlatTable
    counters: Any

    def __init__(self, spec: TowerSpec, *, stdout: int = 1, raw_exit_status: bool = False) -> None:
        self.spec = spec
        self.height = spec.height
        self._open = ExitStack()
        with self._open as opened:  # and closed again, when the rest cannot be opened
            self._build(stdout, raw_exit_status)
            self._open = opened.pop_all()

    def __enter__(self) -> Tower:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the hypervisors, the highest first, and frees everything; a second time does nothing."""
        self._open.close()

    def abandon(self) -> None:
        """Leaves everything open for the rest of the process: a thread that cannot be ended still uses it."""
        self._open.pop_all()

    def _build(self, stdout: int, raw_exit_status: bool) -> None:
        spec = self.spec
        self.hypervisors = make_levels(spec)
        self.policy = Policy(spec, self.hypervisors)
        self._requests = requests(spec)
        check_images(spec, self._requests)
        check_between(spec, self.policy)
        #: The level of the lowest machine code: what stands above it on images is mapped by these as they run.
        self.base = spec.code[0]
        maps = {number: _map(number, level) for number, level in enumerate(spec.levels, start=1)}
        policy = self.policy
        holes, faults, passed = policy.holes(), policy.faults(), policy.passed(spec.code)
        self.maps = TowerMaps(spec.guest.memory, maps, spec.code, holes, faults, passed)
        self.image = self._load()
        machine = self.image.machine if spec.machine == "auto" else spec.machine
        engine_class = engine_for(spec, self.policy.reasons(), machine)
        self.policy.check(engine_class, machine)
        slots = self.maps.slots()
        _check_size(slots)
        host = self._open.enter_context(_host_memory(spec.guest.memory))
        self.memory = {level: LevelMemory(level, self.maps.to_host(level), host) for level in range(1, self.base + 1)}
        self._place(self.image, machine)
        self._machine = machine
        config = EngineConfig(
            machine=machine,
            level=self.base,
            above=spec.code[1:],
            memory=host,
            slots=slots,
            wanted=self.policy.scopes(self.base),
            l0_msrs=emulated_msrs(),
            io_intercepts=spec.io_intercepts,
            reported=self.maps.reported(),
            nesting=max(self.policy.nesting.values(), default=0),
            ceilings=[(one.level, one.scope) for one in self.policy.ceilings],
        )
        self.engine: Engine = self._open.enter_context(engine_class(config))
        self._make_memory()
        self.platform: Platform = self._open.enter_context(
            platform(
                ram=spec.guest.memory,
                stdout=stdout,
                vm=self.engine.irqchip_fd,
                irqchip=machine == "pc",
                command_line=self._append().encode(errors="surrogateescape"),
                initrd=None if spec.guest.initrd is None else self._initrd(spec.guest.initrd),
                raw_exit_status=raw_exit_status,
            )
        )
        self._start(machine)

    def _append(self) -> str:
        """The command line of the lowest machine code."""
        return self.spec.guest.append if self.base == self.height else self.spec.levels[self.base - 1].append

    def _load(self) -> Image:
        guest = self.spec.guest
        path = guest.kernel if self.base == self.height else self.spec.levels[self.base - 1].image
        ram = [
            MemoryRange(region.base, region.size)
            for region in self.maps.to_host(self.base).regions
            if Rights.READ | Rights.WRITE in region.rights
        ]
        if not ram:
            raise ImageError(f"{path}: L{self.base} has no memory: the maps of the levels below leave it none")
        return load(
            str(path),
            ram,
            append=self._append(),
            initrd=guest.initrd,
            address=guest.address,
            above=stacked(self.spec),
        )

    def _initrd(self, path: str) -> bytes | None:
        """What fw_cfg offers as the initrd: only a file; a Multiboot image's modules are in its memory."""
        return None if self.image.format == "Multiboot" else read_file(path, self.spec.guest.memory, "initrd")

    def _place(self, image: Image, machine: str) -> None:
        """Writes what firmware would leave, where level n has memory for it, then the image."""
        memory = self.memory[self.base]
        if machine == "pc":
            with suppress(GuestAccessError):
                memory.write(MP_TABLE_ADDRESS, mp_table())
        for address, data in image.segments:
            memory.write(address, data)

    def _start(self, machine: str) -> None:
        """Everything that needs the engine: CPUID, registers, the views of the levels, the table."""
        engine = self.engine
        self.exposure = expose(engine, self.hypervisors, self._requests, self.base)
        for feature, level in self.policy.nesting.items():
            gone = self.exposure.gone(feature, self.height)
            if gone:
                raise UsageError(
                    f"designate {feature}-instruction=L{level}: no image has {feature.upper()}, as {gone.text}"
                )
        engine.set_cpuid(self.exposure.entries)
        if ExitReason.EMULATION_FAILURE in self.policy.reasons() or emulates_instructions(self.exposure):
            engine.catch_undefined()
        for index, value in self.exposure.msrs(self.base).items():
            engine.set_msr(index, value)
        regs, sregs = engine.regs(), engine.sregs()
        enter(self.image.entry, regs, sregs)
        engine.set_sregs(sregs)
        engine.set_regs(regs)
        self.effects = Effects(self.spec.code)
        self.state = VcpuState(engine)
        self._open.callback(self.state.close)
        self.dispatch = dispatch_of(engine, self.state, self.effects, self.maps.carry)
        self._reclaimed = False
        for level, hypervisor in enumerate(self.hypervisors, start=1):
            guest = self._guest_of(level)
            self._open.callback(self._stop, level, hypervisor)
            with blaming(level, type(hypervisor).__name__, "start()"):
                hypervisor.start(guest)
        self.state.flush()
        active = MachineMemory(self.base, engine) if engine.emulates else self.memory[self.base]
        cpu = Cpu(engine, self.state, active)
        features = feature_claims(self.exposure, cpu)
        self._fixed = [
            *device_claims(self.platform.bus),
            *features,
            *asking_claims(engine, self.hypervisors, self.base),
            *engine_claims(engine),
            *monitor_claims(engine),
            *(Claim(who, scope, server, self.name_of(who)) for who, scope, server in engine.image_claims()),
        ]
        self._designate()
        self.unclaimed: Any = ffi.new("struct nv_unclaimed *")
        self._attach()

    def _guest_of(self, level: int) -> Guest:
        """What the hypervisor at `level` sees of its guest."""
        view = GuestView if level < self.base else ImageGuestView
        memory = self.memory[level + 1]
        ask = self._remap, self._reclaim
        return view(level + 1, self.engine, self.state, self.maps, memory, self.effects, *ask)

    def _make_memory(self) -> None:
        """The memory of the levels above the lowest image; the engine learns what Python levels there do to it."""
        for space, part in enumerate(self.maps.parts[1:], start=1):
            for level in range(part.lowest, part.height + 1):
                self.memory[level] = ImageMemory(level, part.to_host(level), self.engine, space)
            if not part.is_all():
                self.engine.give(space, part.slots(), part.devices())
        self._intercept_above()

    def _intercept_above(self) -> None:
        """The interrupts and NMIs that Python levels above images claim of what comes from below them."""
        for space, reasons in self.policy.arriving(self.maps).items():
            self.engine.intercept_above(space, reasons)

    @staticmethod
    def _stop(level: int, hypervisor: Hypervisor) -> None:
        with blaming(level, type(hypervisor).__name__, "stop()"):
            hypervisor.stop()

    def _designate(self, earlier: Sequence[Claim] = ()) -> None:
        self.designation = self.policy.table(self._fixed, self.maps)
        flat = compile_table(self.designation, earlier)
        counters = ffi.new("struct nv_counter[]", flat.slots)
        if earlier:
            # before anyone who reads them while level n runs can see the new ones
            ffi.memmove(counters, self.counters, self.flat.slots * ffi.sizeof("struct nv_counter"))
        self.flat, self.counters = flat, counters
        self.dispatch.stale = False

    def _remap(self, level: int, new: MemoryMap, first: int, last: int) -> None:
        """The hypervisor at `level` maps its guest's addresses first to last anew."""
        space, part = self.maps.space(level + 1), self.maps.part(level + 1)
        changed = part.at_top(level + 1, first, last)
        old = self.maps.map_of(level)
        self.maps.change(level, new)
        try:
            if space:
                self.engine.give(space, part.slots(), part.devices())
            else:
                self.engine.remap(part.slots(), part.reported(), changed)
        except (HostError, KvmError):
            self.maps.change(level, old)
            raise
        for number in range(part.lowest, part.height + 1):
            self.memory[number].to_host = part.to_host(number)
        self.dispatch.stale |= self.policy.follows(level)

    def amend_cpuid(self) -> None:
        """A CPUID above an image is answered: levels that override `cpuid()` have their turn."""
        indexed = frozenset(entry.function for entry in self.exposure.entries if entry.flags & 1)
        amend_answer(self.engine, self.hypervisors, indexed)

    def _reclaim(self) -> None:
        """A hypervisor claims other events than it did."""
        self.dispatch.stale = self._reclaimed = True

    def renew(self) -> None:
        """Makes the table that of changed maps and claims; when a handler is done with its event.

        Claims keep their counters. Raises as making a tower does for claims that this engine cannot trap, and
        HypervisorError for claims that change what memory level n has.
        """
        if self._reclaimed:
            self.engine.settle()
            if self.engine.vcpu.exited:
                return  # the rest of an access comes first
            self._renew_policy()
        self._designate(self.flat.claims)
        self._attach()

    def _renew_policy(self) -> None:
        policy = Policy(self.spec, self.hypervisors)
        policy.check(type(self.engine), self._machine)
        if (policy.holes(), policy.faults()) != (self.policy.holes(), self.policy.faults()):
            raise HypervisorError(
                "a hypervisor changed its claims of mmio or nested-page-fault while its guest runs; what memory a "
                "guest has is changed by Guest.map and Guest.unmap"
            )
        self.engine.intercept(policy.scopes(self.base))
        self.policy = policy
        self._intercept_above()
        self._reclaimed = False

    def _attach(self) -> None:
        """Hands the table and the counters to the run loop."""
        self.engine.claimed = lru_cache(_INSTRUCTIONS)(self._claims_instruction)
        vcpu = self.engine.vcpu
        vcpu.table = self.flat.table
        vcpu.counters = self.counters
        vcpu.unclaimed = self.unclaimed
        vcpu.strict = self.spec.unclaimed == "error"
        self.dispatch.handlers = self.flat.handlers()

    def _claims_instruction(self, code: bytes) -> bool:
        """Whether an instruction that KVM failed to emulate goes to a level, or to L0's refusal of a hidden feature."""
        qualifier = int.from_bytes(instruction_key(code)[:8].ljust(8, b"\0"), "big")
        turns = self.designation.route(ExitReason.EMULATION_FAILURE, qualifier, Direction.EXECUTE)
        return bool(turns) and (turns[0].level > 0 or isinstance(turns[0].handler, Refusal))

    def receive(self, data: bytes) -> int:
        """Gives console input to the highest level that is a console, else to L0's; the number of bytes taken."""
        for level in range(self.height - 1, 0, -1):
            hypervisor = self.hypervisors[level - 1]
            if hypervisor.console:
                with blaming(level, type(hypervisor).__name__, "receive()"):
                    return hypervisor.receive(data)
        return self.platform.receive(data)

    def name_of(self, level: int) -> str:
        """What accounts call the software of a level, from 1 on."""
        if level >= self.height:
            return self.spec.guest.kernel.name if level == self.height else f"guest of L{level - 1}"
        return name_of(self.hypervisors[level - 1])

    def describe(self) -> str:
        """What would run, level by level, the guest first."""
        kind = self.image.format if self.base == self.height else "ELF64"
        lines = [f"L{self.height} {kind} {self.spec.guest.kernel}, {self.engine.name} engine"]
        for level in range(self.height, 0, -1):
            lines.append(f"   memory of L{level}: {self._memory_of(level)}")
            if level > 1:
                lines.append(f"L{level - 1} {self.name_of(level - 1)}")
                lines += self._claims_of(level - 1) if level - 1 not in self.spec.code else ["   what it intercepts"]
        lines.append("L0 nestvmm")
        lines += self._claims_of(0)
        return "\n".join(lines)

    def _memory_of(self, level: int) -> str:
        regions = self.maps.to_host(level).regions
        if level > self.base:
            image = max(one for one in self.spec.code if one < level)
            if self.maps.to_host(level) == MemoryMap.identity():
                return f"what L{image} gives it"
            given = ", ".join(f"{one.base:#x}-{one.last:#x} {_rights(one.rights)}" for one in regions)
            return f"of what L{image} gives it: {given or 'none'}"
        return ", ".join(f"{one.base:#x}-{one.last:#x} {_rights(one.rights)}" for one in regions) or "none"

    def _claims_of(self, level: int) -> list[str]:
        return [
            f"   {claim.scope.reason.label} {claim.scope.label}" + (f" {claim.who}" if level == 0 else "")
            for claim in self.designation.claims
            if claim.level == level
        ]


def _check_size(slots: Sequence[Slot]) -> None:
    """Raises HostError for more memory than is sane: KVM keeps some ten bytes for each page, touched or not."""
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = sum(slot.size for slot in slots)
    if size > _OVERCOMMIT * host:
        raise HostError(
            f"{size >> 20} MiB of guest memory: this host has {host >> 20} MiB, and can lend {_OVERCOMMIT} times as "
            "much at most; ask for less"
        )


def _host_memory(size: int) -> HostMemory:
    try:
        return HostMemory(size)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", error)
        raise HostError(f"{size >> 20} MiB of guest RAM: {why}; this host has no room for it, ask for less") from None


def _map(number: int, level: LevelSpec) -> MemoryMap:
    if level.memory is None:
        return MemoryMap.identity()
    try:
        return MemoryMap(level.memory)
    except UsageError as error:
        raise UsageError(f"L{number} {level.hypervisor}: {error}") from None


def _rights(rights: Rights) -> str:
    """As `rwx`, with `-` for what is missing."""
    letters = zip("rwx", (Rights.READ, Rights.WRITE, Rights.EXECUTE), strict=True)
    return "".join(letter if right in rights else "-" for letter, right in letters)
