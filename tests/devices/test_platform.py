"""The whole machine: each device at its place, served where it should be, and safe from its guest."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from port_access import answer_write, read, read_string, write

from nestvmm._native import ffi, lib
from nestvmm.devices import Device, Platform, platform
from nestvmm.x86.event import Outcome, Result

MIB = 1 << 20


def at(machine: Platform, port: int) -> tuple[Device, int]:
    """The device that claims a port, and the port's offset in it."""
    (claim,) = [claim for claim in machine.bus.claims() if claim.first <= port <= claim.last]
    return claim.device, port - claim.first


def test_every_device_is_at_its_place() -> None:
    with platform(ram=64 * MIB, stdout=-1) as machine:
        assert [(claim.first, claim.last, claim.device.name) for claim in machine.bus.claims()] == [
            (0x60, 0x60, "keyboard controller"),
            (0x64, 0x64, "keyboard controller"),
            (0x70, 0x71, "CMOS"),
            (0x80, 0x80, "POST port"),
            (0xE9, 0xE9, "debug console"),
            (0xF4, 0xF7, "debug exit"),
            (0x3F8, 0x3FF, "UART"),
            (0x510, 0x511, "fw_cfg"),
            (0x608, 0x60B, "PM timer"),
            (0xCF8, 0xCF8, "PCI address"),
            (0xCF9, 0xCF9, "reset control"),
            (0xCFC, 0xCFF, "PCI data"),
        ]


def test_c_serves_the_console_and_the_ignored_port() -> None:
    with platform(ram=64 * MIB, stdout=-1) as machine:
        served = {claim.device.name: claim.device.server for claim in machine.bus.claims() if claim.device.server}
        assert {name: server.serve for name, server in served.items()} == {
            "UART": ffi.addressof(lib, "nv_uart_serve"),
            "debug console": ffi.addressof(lib, "nv_debugcon_serve"),
            "POST port": ffi.addressof(lib, "nv_ignore_serve"),
            "PCI address": ffi.addressof(lib, "nv_pci_address_serve"),
            "PCI data": ffi.addressof(lib, "nv_ignore_serve"),
        }


def test_the_table_serves_a_device_by_its_server() -> None:
    reader, writer = os.pipe()
    with platform(ram=64 * MIB, stdout=writer) as machine:
        server = at(machine, 0x3F8)[0].server
        assert server is not None
        data = ffi.new("uint8_t[]", b"served in C")
        fields = {"reason": lib.NV_REASON_IO, "direction": lib.NV_WRITE, "size": 1, "count": 11, "data": data}
        event = ffi.new("struct nv_event *", fields)
        table_server = ffi.new("struct nv_server *", {"serve": server.serve, "device": server.device, "base": 0x3F8})
        assert table_server.serve(table_server.device, 0, event) == lib.NV_HANDLED
        assert os.read(reader, 100) == b"served in C"
        event.direction, event.count = lib.NV_READ, 1
        assert table_server.serve(table_server.device, 5, event) == lib.NV_HANDLED
        assert (event.value, data[0]) == (0x60, b"\x60"[0])
    os.close(reader)
    os.close(writer)


def test_both_consoles_write_to_stdout_and_count_their_losses() -> None:
    reader, writer = os.pipe()
    with platform(ram=64 * MIB, stdout=writer) as machine:
        answer_write(at(machine, 0x3F8)[0], 0, b"serial ")
        answer_write(at(machine, 0xE9)[0], 0, b"debug")
        assert os.read(reader, 100) == b"serial debug"
        assert machine.lost == 0
        os.close(reader)
        answer_write(at(machine, 0x3F8)[0], 0, b"abc")
        answer_write(at(machine, 0xE9)[0], 0, b"de")
        assert machine.lost == 5
    os.close(writer)


def test_typing_reaches_the_serial_port() -> None:
    with platform(ram=64 * MIB, stdout=-1) as machine:
        assert machine.receive(b"ls\n") == 3
        uart, _ = at(machine, 0x3F8)
        assert [read(uart, 0) for _ in range(3)] == list(b"ls\n")


def test_what_it_was_built_with_is_what_the_guest_sees() -> None:
    with platform(ram=64 * MIB, stdout=-1, command_line=b"quiet", initrd=b"cpio", raw_exit_status=True) as machine:
        fw_cfg, _ = at(machine, 0x510)
        for key, content in ((0x03, bytes([0, 0, 0, 4, 0, 0, 0, 0])), (0x15, b"quiet\0"), (0x12, b"cpio")):
            write(fw_cfg, 0, key, 2)
            assert bytes(read(fw_cfg, 1) for _ in content) == content
        cmos, _ = at(machine, 0x70)
        write(cmos, 0, 0x35)
        assert read(cmos, 1) == 3
        assert answer_write(at(machine, 0xF4)[0], 0, b"\0") == Result.stopped(1)


@pytest.mark.parametrize(("port", "value"), [(0x64, 0xFE), (0xCF9, 0x06)])
def test_both_ways_to_reset(port: int, value: int) -> None:
    with platform(ram=64 * MIB, stdout=-1) as machine:
        device, offset = at(machine, port)
        result = answer_write(device, offset, bytes([value]))
        assert (result.outcome, result.status) == (Outcome.STOPPED, 0)


PORTS = [0x60, 0x64, 0x70, 0x71, 0x80, 0xE9, *range(0xF4, 0xF8), *range(0x3F8, 0x400), 0x510, 0x511]
PORTS += [*range(0x608, 0x60C), 0xCF8, 0xCF9, *range(0xCFC, 0xD00)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PORTS),
            st.booleans(),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 1024),
            st.binary(min_size=1, max_size=32),
        ),
        max_size=40,
    )
)
def test_no_guest_makes_a_device_raise(stream: list[tuple[int, bool, int, int, bytes]]) -> None:
    with platform(ram=64 * MIB, stdout=-1, command_line=b"x" * 100, initrd=bytes(5000)) as machine:
        for port, is_write, size, count, pattern in stream:
            device, offset = at(machine, port)
            if is_write:
                data = (pattern * (size * count // len(pattern) + 1))[: size * count]
                result = answer_write(device, offset, data, size)
                assert result.outcome in {Outcome.HANDLED, Outcome.STOPPED}
                assert 0 <= result.status <= 255
            else:
                read_string(device, offset, count, size)
