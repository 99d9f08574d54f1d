"""What the shadow tables are filled from: level n's memory, its faults and its holes, as ranges of KVM's addresses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm._native import lib
from nestvmm.engines.paravirtual import carry
from nestvmm.engines.shadow import ADDRESSES, KvmSlot, ShadowRange, shadow_layout
from nestvmm.errors import HostError
from nestvmm.x86.rights import Rights

PAGE = 0x1000
RAM = 0x100000
ALL, RX, RW, READ = Rights.ALL, Rights.READ | Rights.EXECUTE, Rights.READ | Rights.WRITE, Rights.READ
WINDOW = lib.NV_SHADOW_WINDOW


def test_rights_are_numbered_as_in_c() -> None:
    assert [right.value for right in (Rights.READ, Rights.WRITE, Rights.EXECUTE)] == [
        lib.NV_RIGHT_READ,
        lib.NV_RIGHT_WRITE,
        lib.NV_RIGHT_EXECUTE,
    ]


def test_memory_holes_and_windows() -> None:
    layout = shadow_layout([KvmSlot(PAGE, PAGE, 5 * PAGE, readonly=False, executable=False)], [], RAM)
    assert layout.ranges == [
        ShadowRange(0, PAGE - 1, 0, ALL),
        ShadowRange(PAGE, 2 * PAGE - 1, RAM + 5 * PAGE, RW),
        ShadowRange(2 * PAGE, RAM - 1, 2 * PAGE, ALL),
        ShadowRange(RAM, ADDRESSES - 1, WINDOW, ALL),
    ]
    assert layout.readonly == []


def test_read_only_memory_stays_at_its_address_unless_a_level_claims_its_faults() -> None:
    slots = [KvmSlot(0, 3 * PAGE, 7 * PAGE, readonly=True), KvmSlot(3 * PAGE, PAGE, 0, readonly=True, executable=False)]
    layout = shadow_layout(slots, [(PAGE, 2 * PAGE - 1)], RAM)
    assert layout.ranges[:4] == [
        ShadowRange(0, PAGE - 1, 0, ALL),
        ShadowRange(PAGE, 2 * PAGE - 1, RAM + 8 * PAGE, RX),
        ShadowRange(2 * PAGE, 3 * PAGE - 1, 2 * PAGE, ALL),
        ShadowRange(3 * PAGE, 4 * PAGE - 1, 3 * PAGE, RW),
    ]
    assert layout.readonly == [
        KvmSlot(0, PAGE, 7 * PAGE, readonly=True),
        KvmSlot(2 * PAGE, PAGE, 9 * PAGE, readonly=True),
        KvmSlot(3 * PAGE, PAGE, 0, readonly=True),
    ]


def test_read_only_memory_where_l0s_own_is() -> None:
    with pytest.raises(HostError, match=re.escape("read-only memory at 0x100000-0x100fff; this engine takes")):
        shadow_layout([KvmSlot(RAM, PAGE, 0, readonly=True)], [], RAM)
    # as faults they need nothing of KVM's
    assert shadow_layout([KvmSlot(RAM, PAGE, 0, readonly=True)], [(RAM, RAM + PAGE - 1)], RAM).ranges[1] == ShadowRange(
        RAM, RAM + PAGE - 1, RAM, RX
    )


@given(
    st.lists(st.tuples(st.sampled_from("-rwx"), st.booleans()), min_size=1, max_size=24),
    st.integers(0, 24),
)
def test_each_page_leads_where_its_kind_says(pages: list[tuple[str, bool]], ram_page: int) -> None:
    """A page is a hole (-), read-only (r), writable (w) or all (x), and its faults are reported or not."""
    ram = ram_page * PAGE
    slots = [
        KvmSlot(number * PAGE, PAGE, (99 - number) * PAGE, readonly=kind == "r", executable=kind == "x")
        for number, (kind, faults) in enumerate(pages)
        if kind != "-" and not (kind == "r" and not faults and number >= ram_page)
    ]
    given = {slot.guest_address: slot for slot in slots}
    reported = [(number * PAGE, number * PAGE + PAGE - 1) for number, (_, faults) in enumerate(pages) if faults]
    layout = shadow_layout(slots, reported, ram)
    for before, after in zip(layout.ranges, layout.ranges[1:], strict=False):
        assert before.last < after.first
    readonly = {slot.guest_address for slot in layout.readonly}
    for number, (_, faults) in enumerate(pages):
        address = number * PAGE
        found = next((one for one in layout.ranges if one.first <= address <= one.last), None)
        slot = given.get(address)
        to = None if found is None or found.to == WINDOW else found.to + address - found.first
        if slot is None and faults:
            assert found is None
        elif slot is None:
            assert found is not None
            assert (to, found.rights) == (address if address < ram else None, ALL)
        else:
            assert found is not None
            kvms = slot.readonly and not faults
            assert to == (address if kvms else ram + slot.offset)
            assert (Rights.WRITE in found.rights) == (kvms or not slot.readonly)
            assert (Rights.EXECUTE in found.rights) == slot.executable
            assert (address in readonly) == kvms


@pytest.mark.parametrize(
    ("index", "value", "size", "expected"),
    [
        (0x4B564D01, 0x5001, 32, 0x9001),
        (0x4B564D01, 0x5000, None, 0),
        (0x12, 0x5FF1, 32, None),
        (0x11, 0x5010, 12, 0x9010),
        (0x4B564D00, 0x6000, 12, None),
        (0x4B564D02, 0x5047, 64, 0x9047),
        (0x4B564D03, 0x5041, 64, 0x9041),
        (0x4B564D03, 0x5006, None, 6),
        (0x4B564D04, 0x5FFD, 4, 0x9FFD),
    ],
)
def test_msrs_that_name_memory(index: int, value: int, size: int | None, expected: int | None) -> None:
    """KVM's address is level n's + 0x4000 in the page at 0x5000, and none elsewhere."""
    asked: list[int] = []

    def to(address: int, length: int) -> int | None:
        asked.append(length)
        return address + 0x4000 if address >= 0x5000 and address + length <= 0x6000 else None

    assert carry(index, value, to) == expected
    assert asked == ([] if size is None else [size])
