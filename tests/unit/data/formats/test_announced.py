"""What a damaged header announces is found before anyone loops over it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from stem_complete.data.formats.announced import check_announced
from stem_complete.data.formats.damage import DamagedError

DATA = Path(__file__).parents[3] / "data"
WHOLE = {
    "dm3": (DATA / "haadf_tilt_series.dm3").read_bytes(),
    "dm4": (DATA / "spim4-2-df-ref.dm4").read_bytes(),
    "ser": (DATA / "thermo_diffraction" / "bright_1.ser").read_bytes(),
}


def check(folder: Path, kind: str, content: bytes) -> None:
    path = folder / f"a.{kind}"
    path.write_bytes(content)
    check_announced(path)


def overwritten(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


# --- DM3 and DM4 -------------------------------------------------------------------------------


def number(kind: str, value: int) -> bytes:
    return struct.pack(">l" if kind == "dm3" else ">q", value)


def group(kind: str, tags: dict[str, bytes], num_tags: int | None = None) -> bytes:
    """A group as the value of a tag."""
    num_tags = len(tags) if num_tags is None else num_tags
    content = b"".join(
        value[:1] + struct.pack(">h", len(name)) + name.encode() + value[1:]
        for name, value in tags.items()
    )
    size = b"" if kind == "dm3" else bytes(8)
    return b"\x14\1\0" + size + number(kind, num_tags) + content


def tag(kind: str, *numbers: int, content: bytes = b"") -> bytes:
    """The value of a tag: numbers that tell its type, and the value itself."""
    size = b"" if kind == "dm3" else bytes(8)
    header = b"".join(number(kind, each) for each in (len(numbers), *numbers))
    return b"\x15" + size + b"%%%%" + header + content


def dm(kind: str, tags: dict[str, bytes], num_tags: int | None = None) -> bytes:
    root = group(kind, tags, num_tags)
    version, size = int(kind[2]), len(root)
    after_size = 3 if kind == "dm3" else 11  # the root has none
    little = struct.pack(">l", 1)
    return struct.pack(">l", version) + number(kind, size) + little + root[1:3] + root[after_size:]


def image(kind: str, *, side: int = 8, name: str = "ImageData", data: str = "Data") -> bytes:
    sides = {"": tag(kind, 5, content=struct.pack("<L", side))}
    pixels = tag(kind, 20, 4, 64, content=bytes(128))
    return group(
        kind,
        {"": group(kind, {name: group(kind, {data: pixels, "Dimensions": group(kind, sides)})})},
    )


HUGE = 2**30
STRUCT_OF_FLOATS = (15, 0, 2, 0, 6, 0, 6)
DM_TAGS = {
    "text": lambda kind: tag(kind, 18, 5, content=b"hello"),
    "array": lambda kind: tag(kind, 20, 6, 3, content=bytes(12)),
    "struct": lambda kind: tag(kind, *STRUCT_OF_FLOATS, content=bytes(8)),
    "array of structs": lambda kind: tag(kind, 20, *STRUCT_OF_FLOATS, 2, content=bytes(16)),
    "array of texts": lambda kind: tag(kind, 20, 18, 3, 2, content=bytes(6)),
    "truth value": lambda kind: tag(kind, 8, content=b"\1"),
    "images": image,
}
DAMAGED_DM_TAGS = {
    "text": lambda kind: tag(kind, 18, HUGE, content=b"hello"),
    "text that fits": lambda kind: tag(kind, 18, 2**20, content=bytes(2**20)),
    "text of negative length": lambda kind: tag(kind, 18, -5, content=b"hello"),
    "array": lambda kind: tag(kind, 20, 6, HUGE, content=bytes(12)),
    "array of what takes no room": lambda kind: tag(kind, 20, 15, 0, 0, HUGE),
    "struct": lambda kind: tag(kind, 15, 0, HUGE, 0, 6, content=bytes(4)),
    "struct of many fields": lambda kind: tag(kind, 15, 0, 2**13, *([0, 9] * 2**13)),
    "array of texts": lambda kind: tag(kind, 20, 18, 3, HUGE, content=bytes(6)),
    "group": lambda kind: group(kind, {}, num_tags=HUGE),
    "group of negative length": lambda kind: group(kind, {}, num_tags=-1),
    "type": lambda kind: tag(kind, 99, content=bytes(4)),
    "sides": lambda kind: image(kind, side=HUGE),
}


@pytest.mark.parametrize("kind", ["dm3", "dm4"])
@pytest.mark.parametrize("name", DM_TAGS)
def test_a_tag_that_is_there_is_passed(tmp_path: Path, kind: str, name: str) -> None:
    check(tmp_path, kind, dm(kind, {"ImageList": DM_TAGS[name](kind)}))


@pytest.mark.parametrize("kind", ["dm3", "dm4"])
@pytest.mark.parametrize("name", DAMAGED_DM_TAGS)
def test_a_tag_that_is_not_there_is_damage(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(DamagedError, match=r"make no sense|ends after .* all that it announces, "):
        check(tmp_path, kind, dm(kind, {"ImageList": DAMAGED_DM_TAGS[name](kind)}))


@pytest.mark.parametrize("kind", ["dm3", "dm4"])
@pytest.mark.parametrize("lost", [{"name": "Im"}, {"data": "Da"}, {}])
def test_pixels_under_another_name_are_not_read_one_by_one(
    tmp_path: Path, kind: str, lost: dict[str, str]
) -> None:
    many = tag(kind, 20, 10, 2**21, content=bytes(2**21))
    content = dm(kind, {"ImageList": image(kind, **lost), "many": many})
    if not lost:
        check(tmp_path, kind, content)
        return
    with pytest.raises(DamagedError, match="make no sense"):
        check(tmp_path, kind, content)


# --- SER, MRC and BCF --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_files_are_passed(tmp_path: Path, kind: str) -> None:
    check(tmp_path, kind, WHOLE[kind])


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (18, b"\xff\xff\xff\x0f"),  # images
        (22, b"\xff\xff\xff\x0f"),  # place of their places
        (26, b"\xff\xff\xff\x0f"),  # dimensions
        (54, b"\xff\xff\xff\x0f"),  # length of a description
    ],
)
def test_a_series_that_is_not_there_is_damage(tmp_path: Path, place: int, new: bytes) -> None:
    with pytest.raises(DamagedError, match=r"make no sense|ends after 18,566 bytes, before all"):
        check(tmp_path, "ser", overwritten(WHOLE["ser"], place, new))
    with pytest.raises((DamagedError, struct.error)):
        check(tmp_path, "ser", WHOLE["ser"][:300])


@pytest.mark.parametrize("place", [0, 8, 92])
def test_an_mrc_that_is_too_short_is_damage(tmp_path: Path, place: int) -> None:
    whole = struct.pack("<4i", 8, 8, 2, 2) + bytes(1008) + np.zeros((2, 8, 8), "<f4").tobytes()
    check(tmp_path, "mrc", whole)
    with pytest.raises(DamagedError, match="before all that it announces, "):
        check(tmp_path, "mrc", overwritten(whole, place, struct.pack("<i", HUGE)))


CHUNK = 2048


def bcf(parents: list[int], *, chunk: int = CHUNK, num_files: int | None = None) -> bytes:
    """An archive as AidAim's SFS keeps it: files told in the chunk 1, three in a chunk."""
    header = bytearray(0x118 + 9 * CHUNK)
    header[:8] = b"AAMVHFSS"
    struct.pack_into("<fI", header, 0x124, 2.6, chunk)
    num_files = len(parents) if num_files is None else num_files
    struct.pack_into("<III", header, 0x140, 1, num_files, 8)
    for number, parent in enumerate(parents):
        place = 0x138 + CHUNK * (1 + number // 3) + 512 * (number % 3)
        struct.pack_into("<iQ28xi", header, place, 0, 100, parent)
        struct.pack_into("<I", header, 0x118 + CHUNK * (1 + number // 3), 2 + number // 3)
    return bytes(header)


def test_an_archive_that_is_there_is_passed(tmp_path: Path) -> None:
    check(tmp_path, "bcf", bcf([-1, 0, 0, 1, -1]))


@pytest.mark.parametrize(
    "content",
    [
        bcf([-1, 1, 0]),  # a folder in itself
        bcf([-1, 2, 1]),  # and two in each other
        bcf([-1, 7]),
        bcf([-1], num_files=HUGE),
        bcf([-1], chunk=64),
        bcf([-1], chunk=HUGE),
        overwritten(bcf([-1]), 0x138 + CHUNK + 4, struct.pack("<Q", HUGE)),
    ],
    ids=range(7),
)
def test_an_archive_of_what_is_not_there_is_damage(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedError):
        check(tmp_path, "bcf", content)


def test_what_is_of_another_format_is_left_to_its_reader(tmp_path: Path) -> None:
    for kind in ("dm3", "ser", "bcf", "tif"):
        check(tmp_path, kind, b"no header " * 99)
