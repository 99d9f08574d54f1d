import struct

import pytest
from image_writers import BzImage

from nestvmm.errors import ImageError
from nestvmm.loaders.bzimage import is_bzimage, load_bzimage
from nestvmm.loaders.image import MemoryRange
from nestvmm.loaders.long_mode import identity_map
from nestvmm.x86.state import LONG_MODE_GDT, Entry

MIB = 1 << 20
RAM = [MemoryRange(0, 64 * MIB)]


def load(image: BzImage, memory=RAM, command=b"console=ttyS0\0", initrd=None):
    data = image.write()
    assert is_bzimage(data)
    return load_bzimage(data, memory, command, initrd)


def test_kernel_initrd_and_boot_params():
    kernel = bytes(range(256)) * 32
    image = load(BzImage(kernel), initrd=b"i" * 5000)
    assert (image.format, image.machine) == ("bzImage", "pc")
    params = dict(image.segments)[0x2000]
    assert image.segments == [
        (0x1000, b"console=ttyS0\0"),
        (0x1010, LONG_MODE_GDT),
        (0x2000, params),
        (0x3000, identity_map(0x3000)),
        (0x1000000, kernel),
        (64 * MIB - 8192, b"i" * 5000),
    ]
    assert image.entry == Entry(
        "long", rip=0x1000200, rsp=0x9000 + 0x4000, rsi=0x2000, cr3=0x3000, gdt_base=0x1010, gdt_limit=31
    )


def test_boot_params_field_by_field():
    setup = BzImage()
    params = dict(load(setup, initrd=b"i" * 5000).segments)[0x2000]
    expected = bytearray(4096)
    expected[0x1F1:0x26C] = setup.write()[0x1F1:0x26C]
    expected[0x1E8] = 5
    struct.pack_into("<H", expected, 0x1FA, 0xFFFF)
    expected[0x210:0x212] = b"\xff\x01"
    struct.pack_into("<III", expected, 0x214, 0x1000000, 64 * MIB - 8192, 5000)
    struct.pack_into("<I", expected, 0x228, 0x1000)
    for number, region in enumerate(
        [
            (0, 0x9FC00, 1),
            (0x9FC00, 0x400, 2),
            (0xF0000, 0x10000, 2),
            (0x100000, 63 * MIB, 1),
            (0xFFFBC000, 0x44000, 2),
        ]
    ):
        struct.pack_into("<QQI", expected, 0x2D0 + 20 * number, *region)
    assert params == expected


def test_no_initrd_is_zero():
    params = dict(load(BzImage()).segments)[0x2000]
    assert struct.unpack_from("<II", params, 0x218) == (0, 0)


def test_a_signature_behind_the_kernel_is_not_loaded():
    image = BzImage(bytes(0x2000) + b"signature", syssize=0x200)
    assert dict(load(image).segments)[0x1000000] == bytes(0x2000)


def test_a_setup_of_zero_sectors_has_four():
    image = BzImage(b"\x01" * 0x400, setup_sectors=0)
    assert dict(load(image).segments)[0x1000000] == b"\x01" * 0x400


def test_a_long_setup_header_stops_before_other_fields():
    params = dict(load(BzImage(header_length=0xFF, setup_sectors=2)).segments)[0x2000]
    assert params[0x290:0x2D0] == bytes(0x40)
    assert struct.unpack_from("<QQI", params, 0x2D0) == (0, 0x9FC00, 1)


def test_a_relocatable_kernel_goes_above_a_hole():
    memory = [MemoryRange(0, 16 * MIB), MemoryRange(21 * MIB, 64 * MIB)]
    image = load(BzImage(), memory)
    params = dict(image.segments)[0x2000]
    assert image.entry.rip == 22 * MIB + 0x200
    assert struct.unpack_from("<I", params, 0x214) == (22 * MIB,)


@pytest.mark.parametrize("limit", [0x2FFFFFF, 0x37FFFFFF])
def test_the_initrd_ends_at_or_below_its_limit(limit):
    initrd = b"i" * 8192
    image = load(BzImage(initrd_max=limit), initrd=initrd)
    (address,) = [address for address, data in image.segments if data == initrd]
    assert address == min(limit + 1, 64 * MIB) - 8192


def test_the_command_line_limit_does_not_count_the_nul():
    image = load(BzImage(command_max=5), command=b"12345\0")
    assert image.segments[0] == (0x1000, b"12345\0")
    with pytest.raises(ImageError, match="the command line has 6 bytes, this kernel takes 5"):
        load(BzImage(command_max=5), command=b"123456\0")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (BzImage(version=0x20B), r"boot protocol 2\.11; 2\.12 or later"),
        (BzImage(xloadflags=0x7E), "no 64-bit entry point"),
        (BzImage(loadflags=0x80), "is a zImage"),
        (BzImage(header_length=0x20), "setup header ends at 0x222"),
        (BzImage(syssize=0x201), "0x2010 bytes of kernel at offset 0x400, but the file has 0x2400 bytes; truncated"),
        (BzImage(syssize=0xFFFFFFFF), "truncated"),
        (BzImage(syssize=0), "0x0 bytes of kernel"),
        (BzImage(syssize=0x20), "0x200 bytes of kernel"),
        (BzImage(alignment=0), "kernel_alignment 0x0"),
        (BzImage(alignment=0x300000), "kernel_alignment 0x300000"),
        (BzImage(preferred=0x90000), "pref_address 0x90000 lies below 1 MiB"),
        (BzImage(preferred=(1 << 64) - 4096), "no room for the kernel"),
        (BzImage(init_size=0xFFFFFFFF), "no room for the kernel: 4194304 KiB needed between 0x1000000 and"),
        (BzImage(relocatable=0, preferred=63 * MIB + 1), "the kernel at 0x3f00001..0x4000000 .* is not inside RAM"),
        (BzImage(initrd_max=0), "no room for the initrd"),
        (BzImage(initrd_max=0xFFF), "no room for the initrd"),
    ],
)
def test_malformed_bzimage(image, message):
    with pytest.raises(ImageError, match=message):
        load(image, initrd=b"initrd")


def test_a_cut_off_header():
    with pytest.raises(ImageError, match="518 bytes do not hold the setup header"):
        load_bzimage(BzImage().write()[:0x206], RAM, b"\0")


def test_more_ram_ranges_than_boot_params_holds():
    memory = [*RAM, *(MemoryRange((1 << 32) + n * 8192, 4096) for n in range(125))]
    with pytest.raises(ImageError, match="RAM in 130 pieces: boot_params holds 128"):
        load(BzImage(), memory)
    assert dict(load(BzImage(), memory[:-2]).segments)[0x2000][0x1E8] == 128
