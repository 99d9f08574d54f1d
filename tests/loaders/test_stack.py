import pytest
from image_writers import Elf, Segment

from nestvmm.errors import ImageError
from nestvmm.loaders import MemoryRange
from nestvmm.loaders.bare import load_elf64
from nestvmm.loaders.stack import Stacked, stack

MIB = 1 << 20
RAM = [MemoryRange(0, 32 * MIB)]
BOTTOM = Elf(
    entry=0x100004,
    segments=[Segment(b"bottom code", 0x100000), Segment(b"data", 0x103000, memory_size=0x2801)],
).write()
MIDDLE = Elf(entry=0x200000, segments=[Segment(b"middle", 0x200000, virtual=0x7000000)]).write()
TOP = Elf(entry=0x100000, segments=[Segment(b"top", 0x100000)]).write()


def loaded(image: bytes) -> tuple[int, dict[int, bytes]]:
    """The entry point, and what lies from 1 MiB on."""
    result = load_elf64(image, RAM, b"\0")
    return result.entry.rip, {address: bytes(data) for address, data in result.segments if address >= MIB}


def carried(data: bytes) -> tuple[str, bytes]:
    """The command line and the image that one image finds behind it."""
    assert data[:8] == b"nvmmnext"
    size = int.from_bytes(data[8:16], "little")
    assert len(data) == 4096 + size
    text = data[16:4096]
    assert text.endswith(b"\0")
    return text.rstrip(b"\0").decode(), data[4096:]


def test_an_image_alone_is_loaded_as_before() -> None:
    assert loaded(stack(BOTTOM, [])) == loaded(BOTTOM)


def test_each_image_finds_the_rest_on_the_first_page_behind_itself() -> None:
    image = stack(BOTTOM, [Stacked(MIDDLE, "level=2"), Stacked(TOP, "level=3 walk=1")])
    entry, pieces = loaded(image)
    assert (entry, sorted(pieces)) == (0x100004, [0x100000, 0x103000, 0x106000])
    assert (pieces[0x100000], pieces[0x103000]) == (b"bottom code", b"data")
    append, image = carried(pieces[0x106000])
    assert append == "level=2"

    entry, pieces = loaded(image)
    assert (entry, sorted(pieces), pieces[0x200000]) == (0x200000, [0x200000, 0x201000], b"middle")
    append, image = carried(pieces[0x201000])
    assert (append, loaded(image)) == ("level=3 walk=1", (0x100000, {0x100000: b"top"}))


def test_a_page_is_not_skipped_behind_an_image_that_ends_on_one() -> None:
    full = Elf(segments=[Segment(bytes(4096), 0x100000)]).write()
    assert sorted(loaded(stack(full, [Stacked(TOP)]))[1]) == [0x100000, 0x101000]


def test_memory_of_the_image_that_is_not_in_the_file_stays_its_own() -> None:
    """The bss reaches to 0x105801: the loader would refuse an overlap."""
    image = stack(BOTTOM, [Stacked(TOP)])
    assert 0x106000 in loaded(image)[1]


@pytest.mark.parametrize(
    ("first", "above", "message"),
    [
        (b"\x55" * 100, [], "image 1 of the stack: not an ELF64 executable"),
        (TOP, [Stacked(TOP), Stacked(Elf(bits=32).write())], "image 3 of the stack: not an ELF64 executable"),
        (TOP, [Stacked(TOP[:80])], "image 2 of the stack: ELF program headers: bytes .* truncated"),
        (TOP, [Stacked(Elf(type=3).write())], "image 2 of the stack: ELF header: position-independent"),
        (TOP, [Stacked(TOP, "x" * 4080)], "image 2 of the stack: its command line has 4080 bytes, at most 4079 fit"),
        (TOP, [Stacked(TOP, "a\0b")], "NUL"),
    ],
)
def test_what_cannot_be_stacked(first: bytes, above: list[Stacked], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        stack(first, above)


def test_the_longest_command_line() -> None:
    _, pieces = loaded(stack(TOP, [Stacked(TOP, "x" * 4079)]))
    assert carried(pieces[0x101000])[0] == "x" * 4079
