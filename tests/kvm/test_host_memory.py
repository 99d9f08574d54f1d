from __future__ import annotations

import pytest

from nestvmm.kvm import HostMemory


def test_memory_is_aligned_zeroed_and_of_its_size() -> None:
    with HostMemory(0x3000) as memory:
        assert memory.address % (2 << 20) == 0
        assert memory.size == len(memory.view) == 0x3000
        assert memory.read(0, 0x3000) == bytes(0x3000)


def test_what_is_written_is_read() -> None:
    with HostMemory(0x1000) as memory:
        memory.write(0xFFD, b"abc")
        assert memory.read(0xFFC, 4) == b"\0abc"
        memory.view[0:2] = b"xy"
        assert memory.read(0, 3) == b"xy\0"
        memory.write(0x1000, b"")
        assert memory.read(0x1000, 0) == b""


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0xFFF, 2), (0x1000, 1), (2**70, 1), (0, -1)])
def test_outside_is_an_error(offset: int, size: int) -> None:
    with HostMemory(0x1000) as memory:
        with pytest.raises(IndexError, match="are not within 0x1000 bytes of host memory"):
            memory.read(offset, size)
        if size > 0:
            with pytest.raises(IndexError):
                memory.write(offset, bytes(size))


@pytest.mark.parametrize("size", [0, -4096, 1, 4097])
def test_a_wrong_size_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match="positive multiple of 4096"):
        HostMemory(size)


def test_use_after_close_is_an_error_and_a_kept_view_is_safe() -> None:
    memory = HostMemory(0x1000)
    view = memory.view
    view[0] = 5
    memory.close()
    memory.close()
    assert view[0] == 5
    for use in (lambda: memory.read(0, 1), lambda: memory.write(0, b"a"), lambda: memory.address, lambda: memory.view):
        with pytest.raises(ValueError, match="this HostMemory is closed"):
            use()


def test_nothing_is_reserved() -> None:
    with HostMemory(1 << 40) as memory:
        memory.write((1 << 40) - 1, b"z")
        assert memory.read((1 << 40) - 1, 1) == b"z"
