"""The VMX lab's disk: what the boot sector's table says of a made-up kernel. The lab itself shows that it boots."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from nestvmm.errors import HostError
from nestvmm.lab.boot_disk import BOOT_SECTOR, CYLINDER, write_disk
from nestvmm.lab.vmx_image import _lean

SEGMENTS = {0x1000000: b"text" * 300, 0x1800000: b"data" + bytes(5000)}
ENTRY = 0x1000850
MEMORY = 1 << 28


def elf(note: bytes = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", ENTRY)) -> bytes:
    """A 64-bit executable with two segments, and a PVH note behind them."""
    count = len(SEGMENTS)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, count, 0, 0, 0)
    table, body, at = b"", b"", 64 + 56 * count
    for address, data in SEGMENTS.items():
        table += struct.pack("<IIQQQQQQ", 1, 7, at + len(body), address, address, len(data), len(data), 1)
        body += data
    return header + table + body + note


def boot(tmp_path: Path, kernel: bytes, command_line: str = "quiet") -> tuple[bytes, list[tuple[int, int, int]]]:
    """The disk, and the rows of its table: address, first sector, sectors."""
    (tmp_path / "kernel").write_bytes(kernel)
    disk = io.BytesIO()
    write_disk(disk, tmp_path / "kernel", command_line, [b"first" * 400, b"second"], MEMORY)
    data = disk.getvalue()
    rows = [struct.unpack_from("<III", data, BOOT_SECTOR.stat().st_size + 12 * number) for number in range(6)]
    return data, rows


def test_everything_lies_where_the_table_says(tmp_path: Path) -> None:
    disk, rows = boot(tmp_path, elf())
    assert (len(disk) % CYLINDER, disk[510:512]) == (0, b"\x55\xaa")
    assert disk.startswith(BOOT_SECTOR.read_bytes())

    def content(number: int) -> bytes:
        _, sector, count = rows[number]
        return disk[sector * 512 : (sector + count) * 512]

    assert [address for address, _, _ in rows[:2]] == list(SEGMENTS)
    assert content(0).rstrip(b"\0") == b"text" * 300
    assert (content(1).rstrip(b"\0"), rows[1][2]) == (b"data", 1)  # memory is zero: its zeros are not on the disk
    initrd = rows[2][0]
    assert (initrd % 4096, rows[3][0]) == (0, initrd + 2000)
    assert (content(2).rstrip(b"\0"), content(3).rstrip(b"\0")) == (b"first" * 400, b"second")
    assert rows[5] == (ENTRY, rows[4][0], 0)


def test_the_kernel_is_told_of_memory_initrd_and_command_line(tmp_path: Path) -> None:
    disk, rows = boot(tmp_path, elf(), "console=ttyS0")
    address, sector, _ = rows[4]
    page = disk[sector * 512 :]
    magic, version, _, modules, module, line, _, memory_map, regions, _ = struct.unpack_from("<IIIIQQQQII", page)
    assert (magic, version, modules) == (0x336EC578, 1, 1)
    assert page[line - address :].startswith(b"console=ttyS0\0")
    assert struct.unpack_from("<QQ", page, module - address) == (rows[2][0], 2006)
    found = [struct.unpack_from("<QQI", page, memory_map - address + 24 * number) for number in range(regions)]
    assert found == [(0, 0x9F000, 1), (0x100000, MEMORY - 0x110000, 1), (MEMORY - 0x10000, 0x10000, 3)]


@pytest.mark.parametrize("kernel", [elf(note=b""), b"MZ" + bytes(4000), elf().replace(b"\x7fELF", b"\x7fELX")])
def test_what_is_no_pvh_kernel_is_refused(tmp_path: Path, kernel: bytes) -> None:
    with pytest.raises(HostError, match=r"cannot boot .*/kernel: it is no unpacked 64-bit kernel with a PVH entry"):
        boot(tmp_path, kernel)


def test_a_damaged_kernel_is_refused(tmp_path: Path) -> None:
    kernel = bytearray(elf())
    struct.pack_into("<Q", kernel, 64 + 8, 1 << 40)  # the first segment's place in the file
    with pytest.raises(HostError, match=r"cannot boot .*/kernel: ELF segment 0"):
        boot(tmp_path, bytes(kernel))


def test_a_command_line_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="command line is longer than 2047 bytes"):
        boot(tmp_path, elf(), "x" * 2048)


def test_files_that_do_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(elf())
    with pytest.raises(HostError, match="do not fit into 64 MiB of memory: ask for more"):
        write_disk(io.BytesIO(), tmp_path / "kernel", "", [b""], 64 << 20)


def test_a_module_loses_its_signature_and_nothing_else() -> None:
    module = b"\x7fELF module"
    signed = module + b"signature" + struct.pack(">8xI", 9) + b"~Module signature appended~\n"
    assert _lean(signed) == module
    assert _lean(module) == module


def test_a_modules_type_information_is_not_found() -> None:
    assert _lean(b".text\0.BTF\0.BTF_ids\0") == b".text\0.btf\0.BTF_ids\0"
