"""Of a damaged file its owner is told what is wrong, in no library's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from stem_complete.data.formats.damage import damage
from stem_complete.data.formats.micrographs import read_file
from stem_complete.errors import DataError

DATA = Path(__file__).parents[3] / "data"

FILES = {
    "dm3": DATA / "haadf_tilt_series.dm3",
    "dm4": DATA / "spim4-2-df-ref.dm4",
    "ser": DATA / "thermo_diffraction" / "bright_1.ser",
    "h5": DATA / "nanoparticles_01.h5",
    "tif": DATA / "021_HAADF_15nm_Sample_PtNC_21Oct20.tif",
}

NOISE = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)

ENDS = (
    r"found one that ends after [\d,]+ bytes?, before all that it announces"
    r"(, [\d.]+ \w+ of [\w ]+)?; check that"
)
START = "found another start than such files have, "
SENSELESS = "found contents that make no sense in this format; check that"


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: max(1, int(share * len(whole)))]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one byte": (cut(0), ENDS),
    "forty bytes": (lambda whole: whole[:40], ENDS),
    "cut off in the header": (lambda whole: whole[:150], f"({ENDS}|{SENSELESS})"),
    "cut off in the middle": (cut(0.5), f"({ENDS}|{SENSELESS})"),
    "text": (lambda whole: b"no image\n" * 99, f"{START}'no image'"),
    "zeros": (lambda whole: bytes(len(whole)), f"{START}zeros alone"),
    "other bytes": (lambda whole: b"\xff" * len(whole), f"{START}ff ff ff ff"),
    "nonsense after the start": (
        lambda whole: whole[:8] + b"\x7f\xfe" * 300 + whole[608:],
        f"({ENDS}|{SENSELESS})",
    ),
}


@pytest.mark.parametrize(("change", "found"), [*DAMAGES.values()], ids=[*DAMAGES])
@pytest.mark.parametrize("kind", [*FILES])
def test_damage_is_told_in_words_for_its_owner(
    tmp_path: Path, kind: str, change: Callable[[bytes], bytes], found: str
) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / f"a_1.{kind}"
    path.write_bytes(change(FILES[kind].read_bytes()))
    with pytest.raises(DataError, match=rf"^{path}: expected a readable \.{kind} file, {found}"):
        read_file(path)


@pytest.mark.parametrize(("kind", "suffix"), [("tif", ".tif"), ("dm3", ".dm3"), ("h5", ".h5")])
@pytest.mark.parametrize("other", ["png", "ser", "npy"])
def test_a_file_under_the_suffix_of_another_format_is_to_be_renamed(
    tmp_path: Path, kind: str, suffix: str, other: str
) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / f"a_1.{other}"
    path.write_bytes(FILES[kind].read_bytes())
    with pytest.raises(DataError, match=rf"{START}.*; rename it to end in \{suffix}"):
        read_file(path)


@pytest.mark.parametrize("change", [cut(0.5), lambda whole: whole[:-300] + bytes(300)])
@pytest.mark.parametrize("kind", ["png", "npz", "zarr.zip"])
def test_damaged_archives_and_pngs_are_told_likewise(
    tmp_path: Path, kind: str, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(NOISE.astype(np.uint8)))
    else:
        np.savez(tmp_path / "a.npz", image=NOISE)
        (tmp_path / "a.npz").rename(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=rf"^{path}: .* ({ENDS}|{SENSELESS})"):
        read_file(path)


@pytest.mark.parametrize("tag", ["StripByteCounts", "StripOffsets", "ImageLength"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_of_which_strips_are_missing_is_damaged(
    tmp_path: Path, tag: str, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE, rowsperstrip=16, compression=compression)
    assert (read_file(path).micrographs[0].pixels == NOISE).all()
    with tifffile.TiffFile(path, mode="r+") as file:
        entry = file.pages.first.tags[tag]
        entry.overwrite(128 if tag == "ImageLength" else (0, *entry.value[1:]))
    missing = "4 of 8" if tag == "ImageLength" else "1 of 4"
    with pytest.raises(DataError, match=f"found {missing} strips of an image missing; check"):
        read_file(path)


def test_damaged_tables_and_names_are_no_other_compression(tmp_path: Path) -> None:
    path = tmp_path / "a.bcf"
    path.write_bytes(b"AAMVHFSS" + bytes(99))
    said = (
        "The file is marked to be compressed,\nbut compression signature is missing in the header"
    )
    no_text = UnicodeDecodeError("utf-8", b"EDS\xff", 3, 4, "invalid start byte")
    for error in (ValueError(said), no_text):
        found, fix = damage(path, error)
        assert found == "contents that make no sense in this format"
        assert fix.startswith("check that the file is complete")


def test_an_error_in_a_statement_of_ours_is_not_told_as_if_we_had_raised_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + bytes(99))
    with pytest.raises(ValueError, match="truth value") as caught:
        assert not np.ones(2)
    assert damage(path, caught.value).found == "contents that make no sense in this format"


def write_tiff_with_tag(path: Path, name: str, number: int) -> None:
    tifffile.imwrite(path, NOISE, metadata=None, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[name].overwrite(number)


def write_zip_with(path: Path, *places: int, number: int) -> None:
    np.savez_compressed(path, NOISE)
    content = bytearray(path.read_bytes())
    for mark, place in zip((b"PK\3\4", b"PK\1\2"), places, strict=True):
        content[content.find(mark) + place] = number
    path.write_bytes(content)


def write_hdf5_with_filter(path: Path, number: int) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=NOISE, chunks=NOISE.shape, compression="gzip")
    content = bytearray(path.read_bytes())
    place = content.find(b"deflate") - 8
    content[place : place + 2] = number.to_bytes(2, "little")
    path.write_bytes(content)


def write_zarr_with_codec(path: Path, name: str) -> None:
    zarr.create_array(path, data=NOISE)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["codecs"][-1] = {"name": name, "configuration": {}}
    (path / "zarr.json").write_text(json.dumps(metadata))


def write_dm3_of_type(path: Path, number: int) -> None:
    content = bytearray(FILES["dm3"].read_bytes())
    place = content.find(b"%%%%", content.rfind(b"DataType")) + 12
    content[place : place + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)


UNKNOWN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "compression of a tiff": (
        "a.tif",
        lambda path: write_tiff_with_tag(path, "Compression", 9999),
        "a compression that is not supported, 9999",
    ),
    "compression that is known by name alone": (
        "a.tif",
        lambda path: write_tiff_with_tag(path, "Compression", 34676),
        "a compression that is not supported",
    ),
    "photometric interpretation": (
        "a.tif",
        lambda path: write_tiff_with_tag(path, "PhotometricInterpretation", 777),
        "a photometric interpretation that is not supported, 777",
    ),
    "compression of an archive": (
        "a.npz",
        lambda path: write_zip_with(path, 8, 10, number=97),
        "a compression that is not supported",
    ),
    "encryption": (
        "a.npz",
        lambda path: write_zip_with(path, 6, 8, number=1),
        "an encrypted file",
    ),
    "filter": (
        "a.h5",
        lambda path: write_hdf5_with_filter(path, 32008),
        "a compression that is not supported",
    ),
    "codec": (
        "a.zarr",
        lambda path: write_zarr_with_codec(path, "nosuch"),
        "a compression that is not supported",
    ),
    "null data": ("a.dm3", lambda path: write_dm3_of_type(path, 4), "a form that is not supported"),
    "colours": ("a.dm3", lambda path: write_dm3_of_type(path, 23), "a colour image"),
}


@pytest.mark.parametrize(("name", "write", "found"), [*UNKNOWN.values()], ids=[*UNKNOWN])
def test_whole_files_of_an_unknown_form_are_to_be_saved_again(
    tmp_path: Path, name: str, write: Callable[[Path], object], found: str
) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / name
    write(path)
    fix = "save it again from the program that made it, in grey values, without compression"
    with pytest.raises(DataError) as caught:
        read_file(path)
    expected = f"{path}: expected a readable {path.suffix} file, found {found}; {fix}"
    assert str(caught.value) == expected
