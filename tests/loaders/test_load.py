import os
import subprocess
import sys

import pytest
from image_writers import BzImage, Elf, MultibootHeader, Segment
from patience import PATIENCE

from nestvmm.errors import ImageError, UsageError
from nestvmm.loaders import MemoryRange, Stacked, load, read_file
from nestvmm.loaders.stack import stack

MIB = 1 << 20
RAM = [MemoryRange(0, 32 * MIB)]
ELF32 = Elf(bits=32, segments=[Segment(MultibootHeader().write() + b"\xf4" * 16, 0x100000)])


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write_file


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (Elf().write(), "ELF64"),
        (Elf(segments=[Segment(MultibootHeader().write(), 0x100000)]).write(), "ELF64"),
        (ELF32.write(), "Multiboot"),
        (MultibootHeader(0, (0x100000, 0x100000, 0, 0, 0x100000)).write(), "Multiboot"),
        (BzImage().write(), "bzImage"),
    ],
)
def test_the_content_tells_the_format(write, data, kind):
    assert load(write("image", data), RAM).format == kind


def test_an_address_makes_anything_a_raw_binary(write):
    image = load(write("image", Elf().write()), RAM, address=0x100000)
    assert (image.format, image.segments[-1]) == ("raw binary", (0x100000, Elf().write()))


def test_the_command_line_of_each_format(write):
    elf, kernel, multiboot = (
        write(*file) for file in (("e", Elf().write()), ("k", BzImage().write()), ("m", ELF32.write()))
    )
    assert load(elf, RAM, append="ä b").segments[0] == (0x1000, "ä b\0".encode())
    assert load(elf, RAM, append="x", address=0x100000).segments[0] == (0x1000, b"x\0")
    assert load(kernel, RAM, append="quiet").segments[0] == (0x1000, b"quiet\0")
    assert f"{multiboot} a b\0nestvmm\0".encode() in bytes(load(multiboot, RAM, append="a b").segments[0][1])
    assert f"{multiboot}\0nestvmm\0".encode() in bytes(load(multiboot, RAM).segments[0][1])


def test_modules_of_multiboot(write, tmp_path):
    one, two = write("one", b"first"), write("t,wo", b"second")
    escaped = two.replace(",", ",,")
    image = load(write("kernel", ELF32.write()), RAM, initrd=f"{one} a=1 b,{escaped}")
    assert [data for _, data in image.segments[-2:]] == [b"first", b"second"]
    assert f"{one} a=1 b\0{two}\0".encode() in bytes(image.segments[0][1])


def test_initrd_of_linux_is_one_file(write):
    image = load(write("kernel", BzImage().write()), RAM, initrd=write("a,b c", b"initrd"))
    assert image.segments[-1] == (32 * MIB - 4096, b"initrd")


@pytest.mark.parametrize("data", [Elf().write(), BzImage().write(), ELF32.write()])
@pytest.mark.parametrize("append", ["a\0b", "\ud800"])
def test_command_lines_that_are_no_text(write, data, append):
    with pytest.raises(ImageError, match="the command line"):
        load(write("image", data), RAM, append=append)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#!/bin/sh\n", "neither an ELF64 executable nor a Multiboot 1 kernel nor a bzImage; give an address"),
        (b"\x7fELF", "neither 32-bit nor 64-bit; the file is damaged"),
        (b"\x7fELF" + bytes(60), "neither 32-bit nor 64-bit; the file is damaged"),
        (Elf(bits=32).write(), "32-bit ELF file without a Multiboot header"),
        (Elf().write()[:20], "ELF header: bytes 0x0..0x3f lie behind the file's end, 0x14"),
        (b"", "is empty"),
        (bytes(32 * MIB + 1), "32769 KiB, more than the guest's RAM of 32 MiB"),
    ],
)
def test_files_that_are_no_image(write, data, message):
    path = write("image", data)
    with pytest.raises(ImageError, match=message) as error:
        load(path, RAM)
    assert path in str(error.value)


def test_paths_that_are_no_readable_file(write, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, message in (
        (str(tmp_path), "Is a directory"),
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path / "fifo"), "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (str(tmp_path / ("x" * 300)), "File name too long"),
        ("a\0b", "cannot hold NUL"),
    ):
        with pytest.raises(UsageError, match=f"^image .*{message}"):
            load(path, RAM)
        with pytest.raises(UsageError, match=f"initrd .*{message}"):
            load(write("kernel", BzImage().write()), RAM, initrd=path)


def test_a_huge_sparse_file_is_not_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="1024 GiB, more than the guest's RAM of 32 MiB"):
        read_file(str(tmp_path / "huge"), 32 * MIB)


@pytest.mark.parametrize("initrd", [",", "{here}/one,", "", "missing args"])
def test_module_lists_with_missing_files(write, tmp_path, initrd):
    write("one", b"1")
    kernel = write("kernel", ELF32.write())
    with pytest.raises(UsageError, match="No such file"):
        load(kernel, RAM, initrd=initrd.format(here=tmp_path))


def test_pyelftools_is_imported_for_elf_only(write):
    program = (
        "import sys; from nestvmm.loaders import MemoryRange, load; "
        "load(sys.argv[1], [MemoryRange(0, 32 << 20)]); print('elftools' in sys.modules)"
    )
    for data, loaded in ((BzImage().write(), b"False\n"), (Elf().write(), b"True\n")):
        command = [sys.executable, "-c", program, write("image", data)]
        assert subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE).stdout == loaded


def test_images_above_lie_behind_an_elf64_executable(write):
    top = Elf().write()
    image = load(write("image", Elf().write()), RAM, append="below", above=[Stacked(top, "above")])
    (carried,) = [data for address, data in image.segments if address == 0x101000]
    assert bytes(carried).startswith(b"nvmmnext")
    assert bytes(carried)[4096:] == stack(top, [])
    assert bytes(carried)[16:22] == b"above\0"


def test_a_multiboot_kernel_gets_the_images_above_as_its_last_module(write):
    top = Elf().write()
    path = write("initrd", b"a module")
    above = [Stacked(Elf().write(), "middle"), Stacked(top, "top")]
    image = load(write("image", ELF32.write()), RAM, initrd=path, above=above)
    modules = [bytes(data) for _, data in image.segments]
    assert modules.index(b"a module") < modules.index(stack(Elf().write(), [Stacked(top, "top")]))


@pytest.mark.parametrize(("data", "address"), [(BzImage().write(), None), (b"raw", 0x100000)])
def test_what_cannot_find_an_image_above_it_is_refused(write, data, address):
    with pytest.raises(ImageError, match="image: only an ELF64 executable or a Multiboot kernel finds the image above"):
        load(write("image", data), RAM, address=address, above=[Stacked(Elf().write())])


def test_an_image_above_that_is_no_elf64_executable_is_refused_by_name(write):
    with pytest.raises(ImageError, match=r"L2 top\.bin: not an ELF64 executable"):
        load(write("image", Elf().write()), RAM, above=[Stacked(b"raw", "", "L2 top.bin")])


def test_a_hypervisor_image_that_is_no_executable_is_refused_by_its_path_alone(write):
    path = write("image", Elf().write()[:80])
    with pytest.raises(ImageError, match=f"^{path}: ELF program headers: "):
        load(path, RAM, above=[Stacked(Elf().write())])
