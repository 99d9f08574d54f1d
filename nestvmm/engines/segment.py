"""Segments: descriptors in memory, the registers that they make, and these as control blocks keep them.

AMD APM vol. 2, 4.7 and 15.5.1; Intel SDM vol. 3, 3.4.5 and 25.4.1.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nestvmm.kvm import Segment

__all__ = ["Descriptor", "attributes_of", "null_segment", "segment_of", "virtual_8086_segment"]

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
            **_fields(word >> 40 & 0xFF | word >> 44 & 0xF00),
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


def segment_of(selector: int, base: int, limit: int, attributes: int, unusable: int) -> Segment:
    """The register with these attributes: bits 47 to 40, then 55 to 52 of a descriptor."""
    return Segment(base=base, limit=limit, selector=selector, unusable=unusable, **_fields(attributes))


def attributes_of(segment: Segment) -> int:
    """A register's attributes, as `segment_of` takes them."""
    return (
        segment.type
        | segment.s << 4
        | segment.dpl << 5
        | segment.present << 7
        | segment.avl << 8
        | segment.l << 9
        | segment.db << 10
        | segment.g << 11
    )


def _fields(attributes: int) -> dict[str, int]:
    return {
        "type": attributes & 15,
        "s": attributes >> 4 & 1,
        "dpl": attributes >> 5 & 3,
        "present": attributes >> 7 & 1,
        "avl": attributes >> 8 & 1,
        "l": attributes >> 9 & 1,
        "db": attributes >> 10 & 1,
        "g": attributes >> 11 & 1,
    }
