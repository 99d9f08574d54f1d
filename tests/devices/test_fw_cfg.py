"""fw_cfg, byte for byte (QEMU docs/specs/fw_cfg.rst)."""

import pytest
from port_access import answer_write, read, read_string, write

from nestvmm.devices.fw_cfg import FwCfg
from nestvmm.x86.event import Result

SELECTOR, DATA = 0, 1


@pytest.fixture
def fw_cfg() -> FwCfg:
    return FwCfg(
        0x1_4000_0000,
        cpus=3,
        command_line=b"console=ttyS0",
        initrd=bytes(range(256)) * 40,
        command_line_address=0x20000,
        initrd_address=0x7FE0000,
    )


def select(device: FwCfg, key: int) -> None:
    write(device, SELECTOR, key, 2)


ITEMS = [
    (0x00, b"QEMU"),
    (0x01, b"\x01\0\0\0"),
    (0x03, b"\0\0\0\x40\x01\0\0\0"),
    (0x05, b"\x03\0"),
    (0x0A, b"\0\0\xfe\x07"),
    (0x0B, b"\0\x28\0\0"),
    (0x0F, b"\x03\0"),
    (0x13, b"\0\0\x02\0"),
    (0x14, b"\x0e\0\0\0"),
    (0x15, b"console=ttyS0\0"),
    (0x19, b"\0\0\0\0"),
]


@pytest.mark.parametrize(("key", "content"), ITEMS)
def test_items_and_the_zeros_behind_them(fw_cfg: FwCfg, key: int, content: bytes) -> None:
    select(fw_cfg, key)
    assert read_string(fw_cfg, DATA, len(content)) == content
    assert read_string(fw_cfg, DATA, 5) == bytes(5)
    select(fw_cfg, key)
    assert bytes(read(fw_cfg, DATA) for _ in content) == content


@pytest.mark.parametrize("key", [0x02, 0x1A, 0x3FFF, 0x8000, 0xC000, 0xFFFF])
def test_other_keys_have_no_bytes(fw_cfg: FwCfg, key: int) -> None:
    select(fw_cfg, key)
    assert read_string(fw_cfg, DATA, 16) == bytes(16)


def test_write_channel_bit_has_no_effect(fw_cfg: FwCfg) -> None:
    select(fw_cfg, 0x4000)
    assert read_string(fw_cfg, DATA, 4) == b"QEMU"


def test_the_signature_is_selected_at_first(fw_cfg: FwCfg) -> None:
    assert read_string(fw_cfg, DATA, 4) == b"QEMU"


def test_string_input_reads_on_where_the_last_one_ended(fw_cfg: FwCfg) -> None:
    select(fw_cfg, 0x12)
    data = b"".join(read_string(fw_cfg, DATA, count) for count in (1, 4096, 3, 4096, 2044))
    assert data == bytes(range(256)) * 40


def test_wide_reads_have_one_byte_of_data_an_element(fw_cfg: FwCfg) -> None:
    assert read_string(fw_cfg, DATA, 2, 2) == b"Q\xffE\xff"
    assert read_string(fw_cfg, DATA, 3, 4) == b"M\xff\xff\xffU\xff\xff\xff\0\xff\xff\xff"


def test_the_selector_takes_16_bits_and_gives_nothing(fw_cfg: FwCfg) -> None:
    read(fw_cfg, DATA)
    for size in (1, 4):
        write(fw_cfg, SELECTOR, 0x15, size)
    write(fw_cfg, DATA, 0x15, 2)
    assert read_string(fw_cfg, SELECTOR, 2, 2) == b"\xff\xff\xff\xff"
    assert read(fw_cfg, DATA) == ord("E"), "neither selection nor position moved"


def test_of_a_string_of_selections_the_last_counts(fw_cfg: FwCfg) -> None:
    assert answer_write(fw_cfg, SELECTOR, b"\x15\0\x03\0\0\0", 2) == Result.handled()
    assert read_string(fw_cfg, DATA, 4) == b"QEMU"


def test_a_machine_without_command_line_or_initrd() -> None:
    device = FwCfg(1 << 20)
    select(device, 0x14)
    assert read_string(device, DATA, 4) == b"\x01\0\0\0"
    select(device, 0x0B)
    assert read_string(device, DATA, 4) == bytes(4)
    select(device, 0x05)
    assert read_string(device, DATA, 2) == b"\x01\0"
