"""General registers that are unpacked one by one, as they are asked for.

Making 18 integers of them takes as long as an exit on some machines, and a handler looks at two or three.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from nestvmm._native import ffi
from nestvmm.kvm.structs import Regs

__all__ = ["PackedRegs", "VcpuRegs"]

_U64 = struct.Struct("<Q")


class PackedRegs(Regs):
    """Regs that stand one behind the other in some bytes, little endian; class option `names`: theirs. Made by `on`.

    packed:   the bytes
    changes:  what was set since, by name
    """

    __slots__ = ("changes", "packed")
    if TYPE_CHECKING:
        packed: Any = None
        changes: Any = None

    def __init_subclass__(cls, names: Sequence[str]) -> None:
        super().__init_subclass__(c="struct kvm_regs")
        for number, name in enumerate(names):
            setattr(cls, name, _register(name, number * _U64.size))

    @classmethod
    def on(cls, packed: bytes) -> Self:
        """Those that stand there."""
        regs = cls.__new__(cls)
        regs.packed = packed
        regs.changes = {}
        return regs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Regs):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Regs.__match_args__)

    __hash__ = None  # type: ignore[assignment] # mutable

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        """A copy that outlives the exit is a plain one."""
        return Regs, tuple(getattr(self, name) for name in Regs.__match_args__)

    def copy(self) -> Regs:
        """Another one with the same values."""
        regs = self.on(self.packed)
        regs.changes.update(self.changes)
        return regs

    def changed_from(self, other: Regs) -> Iterable[str]:
        """The names of those that differ."""
        if not isinstance(other, PackedRegs) or self.packed is not other.packed or other.changes:
            return super().changed_from(other)
        return [name for name, value in self.changes.items() if value != getattr(other, name)]


def _register(name: str, offset: int) -> property:
    unpack = _U64.unpack_from

    def get(regs: PackedRegs) -> int:
        changes = regs.changes
        value: int = changes[name] if name in changes else unpack(regs.packed, offset)[0]
        return value

    def put(regs: PackedRegs, value: int) -> None:
        regs.changes[name] = value

    return property(get, put)


class VcpuRegs(PackedRegs, names=Regs.__match_args__):
    """Those of a vCPU, as KVM gives them."""

    @classmethod
    def of(cls, c: Any) -> VcpuRegs:
        """Copies a `struct kvm_regs`."""
        return cls.on(bytes(ffi.buffer(c)))

    def fill(self, c: Any) -> Any:
        """As Struct.fill."""
        ffi.memmove(c, self.packed, len(self.packed))
        return self._put(c, self.changes)
