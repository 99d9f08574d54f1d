"""The bus: no port with two devices, and every refusal says which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm.devices import Bus, RegisterDevice
from nestvmm.errors import UsageError


class Named(RegisterDevice):
    def __init__(self, name: str) -> None:
        self.name = name


def test_claims_are_in_order_of_their_ports() -> None:
    bus, a, b, c = Bus(), Named("a"), Named("b"), Named("c")
    bus.add(0x60, 1, a)
    bus.add(0xFFF8, 8, b)
    bus.add(0, 0x60, c)
    assert bus.claims() == ((0, 0x5F, c), (0x60, 0x60, a), (0xFFF8, 0xFFFF, b))


@pytest.mark.parametrize(
    ("first", "count"), [(0xFF, 2), (0x107, 1), (0x107, 100), (0x100, 8), (0x103, 1), (0, 0x10000)]
)
def test_an_overlap_is_refused_by_name(first: int, count: int) -> None:
    bus = Bus()
    bus.add(0x100, 8, Named("one"))
    with pytest.raises(UsageError) as caught:
        bus.add(first, count, Named("two"))
    assert str(caught.value) == (
        f"two: ports {first:#x} to {first + count - 1:#x} overlap 0x100 to 0x107 of one: move one of the two"
    )
    assert len(bus.claims()) == 1


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (0x10000, 1), (0xFFFF, 2), (0x10, 0), (0x10, -1)])
def test_what_is_no_range_of_ports_is_refused(first: int, count: int) -> None:
    with pytest.raises(UsageError, match=r"^two: .* not a range within 0 to 0xffff"):
        Bus().add(first, count, Named("two"))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12))
def test_the_bus_agrees_with_a_set_of_ports(ranges: list[tuple[int, int]]) -> None:
    bus, taken, device = Bus(), set[int](), Named("any")
    for first, count in ranges:
        ports = set(range(first, first + count))
        if ports & taken:
            with pytest.raises(UsageError):
                bus.add(first, count, device)
        else:
            bus.add(first, count, device)
            taken |= ports
    claimed = [port for claim in bus.claims() for port in range(claim.first, claim.last + 1)]
    assert claimed == sorted(taken)
