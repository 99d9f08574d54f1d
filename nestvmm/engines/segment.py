"""Segment descriptors in memory and the registers that they make: AMD APM vol. 2, 4.7; Intel SDM vol. 3, 3.4.5."""

from __future__ import annotations

from typing import Final, NamedTuple

from nestvmm.kvm import Segment

__all__ = ["Descriptor", "null_segment", "virtual_8086_segment"]

_CODE: Final = 8
_CONFORMING: Final = 4  # of code
_SECOND: Final = 2  # code can be read, data written


class Descriptor(NamedTuple):
    """Eight bytes of a GDT or LDT; `limit` in bytes whatever its granularity.

    s:  code or data, not a system segment
    """

    base: int
    limit: int
    type: int
    s: int
    dpl: int
    present: int
    avl: int
    l: int  # noqa: E741 (the manuals' name)
    db: int
    g: int

    @classmethod
    def unpack(cls, data: bytes) -> Descriptor:
        """Of eight bytes."""
        word = int.from_bytes(data, "little")
        limit, g = word & 0xFFFF | word >> 32 & 0xF0000, word >> 55 & 1
        return cls(
            base=word >> 16 & 0xFFFFFF | word >> 32 & 0xFF000000,
            limit=limit << 12 | 0xFFF if g else limit,
            type=word >> 40 & 15,
            s=word >> 44 & 1,
            dpl=word >> 45 & 3,
            present=word >> 47 & 1,
            avl=word >> 52 & 1,
            l=word >> 53 & 1,
            db=word >> 54 & 1,
            g=g,
        )

    @property
    def code(self) -> bool:
        """Whether it can be executed."""
        return bool(self.s and self.type & _CODE)

    @property
    def conforming(self) -> bool:
        """Whether it is code that runs at its caller's privilege."""
        return self.code and bool(self.type & _CONFORMING)

    @property
    def readable(self) -> bool:
        """Whether it is data, or code that can be read."""
        return bool(self.s and (not self.type & _CODE or self.type & _SECOND))

    @property
    def writable(self) -> bool:
        """Whether it is data that can be written."""
        return bool(self.s and not self.type & _CODE and self.type & _SECOND)

    def segment(self, selector: int) -> Segment:
        """The register that was loaded by `selector`."""
        return Segment(selector=selector, **self._asdict())


def null_segment(selector: int) -> Segment:
    """Nothing can be reached by it; of SS its RPL is the CPL (Intel SDM vol. 3, 27.3.1.2)."""
    return Segment(selector=selector, dpl=selector & 3, unusable=1)


def virtual_8086_segment(selector: int) -> Segment:
    """64 KiB at 16 times the selector, which CPL 3 can write (Intel SDM vol. 3, 27.3.1.2)."""
    return Segment(base=selector << 4, limit=0xFFFF, selector=selector, type=3, s=1, dpl=3, present=1)
