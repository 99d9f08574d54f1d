"""An engine without KVM: its guest is a list of exits, run by the real loop of native/vcpu.c."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines import EngineConfig, GuestPaging, MemorySlot, Trial
from nestvmm.engines.no_images import NoImages
from nestvmm.errors import HostError
from nestvmm.kvm import CpuidEntry, Regs, Sregs
from nestvmm.x86.event import Direction, Outcome, Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope
from nestvmm.x86.spans import Span

DEBUG_EXIT = 0xF4


@dataclass
class Exit:
    """What level n does next; `part`: the rest of the access before, which KVM hands over when that is settled."""

    reason: ExitReason
    qualifier: int = 0
    direction: int = Direction.READ
    size: int = 0
    count: int = 1
    data: bytes = b""
    info: int = 0
    raw: int = 0
    instruction: bytes = b""
    part: bool = False
    before: Callable[[], None] | None = None


def reads(port: int, size: int = 1, count: int = 1) -> Exit:
    return Exit(ExitReason.IO, port, Direction.READ, size, count)


def writes(port: int, value: int | bytes, size: int = 1) -> Exit:
    data = value if isinstance(value, bytes) else value.to_bytes(size, "little")
    return Exit(ExitReason.IO, port, Direction.WRITE, size, len(data) // size, data)


def loads(address: int, size: int = 1) -> Exit:
    return Exit(ExitReason.MMIO, address, Direction.READ, size)


def stores(address: int, value: int, size: int = 1) -> Exit:
    return Exit(ExitReason.MMIO, address, Direction.WRITE, size, 1, value.to_bytes(size, "little"))


def reads_msr(index: int) -> Exit:
    return Exit(ExitReason.RDMSR, index, Direction.READ, 8)


def writes_msr(index: int, value: int) -> Exit:
    return Exit(ExitReason.WRMSR, index, Direction.WRITE, 8, 1, value.to_bytes(8, "little"))


@dataclass
class Answer:
    """What level n got for an exit: the value of a read, all bytes of a string, or the fault."""

    reason: ExitReason
    value: int = 0
    data: bytes = b""
    fault: bool = False


class FakeEngine(NoImages):
    """An Engine; after its `exits` the guest leaves by the debug exit with status 0.

    answers:  to each exit, the debug exit's aside
    log:      what was set: ("regs", changed fields), ("sregs", cr3), ("exception", vector, error code), ...
    """

    name: ClassVar[str] = "fake"
    emulates: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[frozenset[ExitReason]] = frozenset()
    mailbox = 0

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.exits: deque[Exit] = deque()
        self.answers: list[Answer] = []
        self.log: list[tuple[Any, ...]] = []
        self.cpuid: list[CpuidEntry] = []
        self.msrs: dict[int, int] = {}
        self.irqchip_fd = -1
        self.paging = GuestPaging(config.memory, config.slots)
        self._settling = False
        self.note: Callable[[Any], object] = lambda _: None  # called with each exit that is completed
        self.stopped = False  # whether an intercept stopped each exit
        self._regs, self._sregs = Regs(), Sregs()
        self._data = ffi.new("uint8_t[]", 4096)
        self._callbacks = [
            ffi.callback("int(struct nv_vcpu *)", self._enter),
            ffi.callback("void(struct nv_vcpu *, struct nv_event *)", self._decode),
            ffi.callback("void(struct nv_vcpu *, struct nv_event *)", self._complete),
        ]
        self._ops = ffi.new(
            "struct nv_engine_ops *", dict(zip(("enter", "decode", "complete"), self._callbacks, strict=True))
        )
        self.vcpu = ffi.new("struct nv_vcpu *")
        lib.nv_vcpu_init(self.vcpu, self._ops, config.level)
        # as every engine: without its handler the signal of a kick kills the process
        lib.nv_kick_init()

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.log.append(("closed",))

    def _enter(self, _vcpu: Any) -> int:
        if not self.exits:
            self.exits.append(writes(DEBUG_EXIT, 0))
        if self._settling and not self.exits[0].part:
            return -errno.EINTR
        return 0

    def _decode(self, _vcpu: Any, event: Any) -> None:
        now = self.exits.popleft()
        if now.before is not None:
            now.before()
        event.reason, event.qualifier, event.direction = now.reason, now.qualifier, now.direction
        event.size, event.count, event.info, event.raw = now.size, now.count, now.info, now.raw
        event.data = self._data
        ffi.memmove(self._data, now.data.ljust(now.size * now.count, b"\0"), now.size * now.count)
        event.value = int.from_bytes(now.data[: now.size], "little")
        event.instruction_length = len(now.instruction)
        event.instruction[0 : len(now.instruction)] = now.instruction

    def _complete(self, _vcpu: Any, event: Any) -> None:
        self.note(event)
        reason = ExitReason(event.reason)
        read = event.direction == Direction.READ and event.size
        if (reason, event.qualifier) != (ExitReason.IO, DEBUG_EXIT):
            self.answers.append(
                Answer(
                    reason,
                    event.value & (1 << 8 * event.size) - 1 if read and event.count == 1 else 0,
                    bytes(ffi.buffer(event.data, event.size * event.count)) if read and event.count != 1 else b"",
                    bool(event.fault),
                )
            )

    @staticmethod
    def traps(reason: ExitReason, machine: str) -> bool:
        return reason not in FakeEngine.refused

    def supported_cpuid(self) -> list[CpuidEntry]:
        return [CpuidEntry(function=0, eax=1)]

    def feature_msrs(self) -> dict[int, int]:
        return {}

    def filters_msrs(self) -> bool:
        return True

    def try_instructions(self, codes: Sequence[bytes], entries: Sequence[CpuidEntry]) -> list[tuple[Trial, Trial]]:
        return [(Trial.HANDED_OVER, Trial.HANDED_OVER)] * len(codes)

    def catch_undefined(self) -> None:
        self.log.append(("catch undefined",))

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        self.cpuid = entries

    def shown_cpuid(self) -> list[CpuidEntry]:
        return self.cpuid

    def run(self, enter: Callable[[], int] | None = None) -> int:
        status = int(lib.nv_vcpu_run(self.vcpu)) if enter is None else enter()
        if status < 0:
            raise HostError(f"the fake engine failed: {-status}")
        return status

    def kick(self) -> None:
        lib.nv_vcpu_kick(self.vcpu)

    def remap(self, slots: Sequence[MemorySlot], reported: Sequence[Span], changed: Sequence[Span]) -> None:
        self.paging.set_slots(slots)
        self.log.append(("remap", [tuple(slot) for slot in slots], list(reported), list(changed)))  # type: ignore[call-overload]

    def let_pass(self) -> bool:
        return False

    def intercepted(self) -> bool:
        return self.stopped

    def servers(self) -> list[tuple[Scope, Server]]:
        return []

    def overstrained(self) -> str:
        return ""

    def settle(self) -> None:
        self._settling = True
        lib.nv_vcpu_settle(self.vcpu)
        self._settling = False
        self.log.append(("settle",))

    def regs(self) -> Regs:
        return deepcopy(self._regs)

    def change_regs(self, changes: Mapping[str, int]) -> None:
        regs = self.regs()
        for name, value in changes.items():
            setattr(regs, name, value)
        self.set_regs(regs)

    def set_regs(self, regs: Regs) -> None:
        changed = {name: getattr(regs, name) for name in Regs.__match_args__}
        old = self._regs
        self._regs = deepcopy(regs)
        self.log.append(("regs", {name: value for name, value in changed.items() if value != getattr(old, name)}))

    def sregs(self) -> Sregs:
        return deepcopy(self._sregs)

    def set_sregs(self, sregs: Sregs) -> None:
        self._sregs = deepcopy(sregs)
        self.log.append(("sregs", sregs.cr3))

    def get_msr(self, index: int) -> int | None:
        return self.msrs.get(index)

    def set_msr(self, index: int, value: int) -> bool:
        if index not in self.msrs:
            return False
        self.msrs[index] = value
        return True

    def refusal(self, code: int, information: int) -> str:
        return f"code {information:#x}"

    def exception(self, vector: int, error_code: int | None) -> None:
        self.log.append(("exception", vector, error_code))

    def complete(self) -> Result:
        return Result(Outcome.DECLINED, message="a fake completes nothing")

    def interrupt(self, vector: int) -> None:
        self.log.append(("interrupt", vector))

    def halt(self) -> bool:
        self.log.append(("halt",))
        return False

    def nmi(self) -> None:
        self.log.append(("nmi",))

    def request_window(self, *, nmi: bool) -> None:
        self.log.append(("window", nmi))

    def intercept(self, wanted: Sequence[Scope]) -> None:
        self.log.append(("intercept", list(wanted)))

    def irq_line(self, number: int, level: bool) -> None:
        self.log.append(("line", number, level))
