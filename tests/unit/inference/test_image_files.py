from __future__ import annotations

import json
from pathlib import Path

import h5py  # noqa: F401  here, as its import starts a process
import imagecodecs
import numpy as np
import pytest
import tifffile
from rsciio.tiff import file_reader

from stem_complete.data.about import About
from stem_complete.data.formats.micrographs import read_micrograph, read_micrographs
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.inference import (
    CompletedScan,
    Completion,
    Outputs,
    image_files,
    write_completion,
)
from stem_complete.inference.image_files import (
    display_range,
    read_info,
    why_again,
    write_png,
    write_tiff,
)
from stem_complete.inference.self_check import SelfCheck

IMAGE = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
IMAGE[3, 4] = 1e4  # a hot pixel


def test_imagej_reads_pixels_scale_and_contrast(tmp_path):
    path = tmp_path / "image.tif"
    write_tiff(path, IMAGE, 0.058594, {"model": "µ"})
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_imagej
        page, metadata = tiff.pages[0], tiff.imagej_metadata
        np.testing.assert_array_equal(page.asarray(), IMAGE)
        assert page.dtype == np.float32
        numerator, denominator = page.tags["XResolution"].value
        assert page.tags["YResolution"].value == (numerator, denominator)
    assert metadata["unit"] == "nm"
    assert denominator / numerator == pytest.approx(0.058594, rel=1e-6)
    assert -4 < metadata["min"] < -2
    assert 2 < metadata["max"] < 4
    assert read_info(path) == {"model": "µ"}
    assert read_micrograph(path).pixel_size_nm == pytest.approx(0.058594, rel=1e-6)


def test_a_stack_beyond_the_offsets_of_tiff_has_one_directory_as_imagej_writes_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(image_files, "_MOST_TIFF_BYTES", 2 * IMAGE.nbytes)
    path, stack = tmp_path / "stack.tif", np.stack([IMAGE, 2 * IMAGE, 3 * IMAGE])
    write_tiff(path, stack, 0.5, {"title": "gold"})
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
        np.testing.assert_array_equal(tiff.asarray(), stack)
    found = read_micrographs(path)
    np.testing.assert_array_equal([each.pixels for each in found], stack)
    assert [each.pixel_size_nm for each in found] == [0.5] * 3
    assert read_info(path) == {"title": "gold"}


def test_an_unknown_pixel_size_stays_unknown(tmp_path):
    write_tiff(tmp_path / "image.tif", IMAGE, None, {})
    assert read_micrograph(tmp_path / "image.tif").pixel_size_nm is None


@pytest.mark.parametrize("content", [None, b"", b"II*\x00 and so on"], ids=["none", "empty", "cut"])
def test_what_is_not_ours_has_no_info(tmp_path, content):
    path = tmp_path / "image.tif"
    if content is not None:
        path.write_bytes(content)
    assert read_info(path) == {}


def test_a_tiff_of_another_program_has_no_info(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, imagej=True, metadata={"Info": "[1, 2]"})
    tifffile.imwrite(tmp_path / "b.tif", IMAGE)
    assert read_info(tmp_path / "a.tif") == read_info(tmp_path / "b.tif") == {}


def test_a_preview_is_not_darkened_by_a_hot_pixel(tmp_path):
    write_png(tmp_path / "image.png", IMAGE)
    grey = imagecodecs.png_decode((tmp_path / "image.png").read_bytes())
    assert grey.shape == IMAGE.shape
    assert grey.dtype == np.uint8
    assert 100 < grey.mean() < 155
    assert grey[3, 4] == 255


def test_a_constant_image_has_a_preview(tmp_path):
    write_png(tmp_path / "image.png", np.full((32, 32), 7, np.float32))
    assert display_range(np.full((32, 32), 7, np.float32)) == (7, 7)


@pytest.fixture
def completed(completer):
    scan = RasterScan(np.ones((40, 60)), where="scan")
    return CompletedScan(scan, Completion(IMAGE, None), completer.card)


def test_a_file_that_cannot_be_written_is_not_there(tmp_path, monkeypatch, completed):
    path = tmp_path / "folder" / "image.tif"
    write_completion(completed, path)
    before = path.read_bytes()

    def disk_full(file: Path, *_: object, **__: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", disk_full)
    with pytest.raises(DataError, match="No space left on device; make room") as caught:
        write_completion(completed, path)
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_said(tmp_path, completed):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="to write"):
        write_completion(completed, tmp_path / "file" / "image.tif")


def test_an_npy_has_what_it_says_of_itself_beside_it(completer, tmp_path):
    scan = RasterScan(IMAGE, pixel_size_nm=0.05, where=Path("x.tif"))
    completed = CompletedScan(scan, Completion(IMAGE, np.ones_like(IMAGE)), completer.card)
    image, outputs, made_from = tmp_path / "x_completed.npy", Outputs(error_map=True), {"scan": "1"}
    written = write_completion(completed, image, outputs, made_from)
    assert [path.name for path in written] == ["x_error.npy", "x_completed.json", image.name]
    np.testing.assert_array_equal(np.load(image), IMAGE)
    np.testing.assert_array_equal(np.load(tmp_path / "x_error.npy"), np.ones_like(IMAGE))
    assert read_info(image)["pixel_size_nm"] == 0.05
    assert why_again(image, outputs, made_from) is None
    assert why_again(image, outputs, {"scan": "2"}) == "done again, as its scan changed"


FORMATS = [".tif", ".npy", ".hspy", ".ome.zarr"]
GOLD = About("gold", "nA", {"Acquisition_instrument": {"TEM": {"beam_energy": 200.0}}})
CHECK = SelfCheck(0.5, None, float("nan"), 7, 1.0)


@pytest.fixture
def gold(completer):
    """Two frames, with title, unit, metadata, error map and self-check."""
    scan = RasterScan(IMAGE, pixel_size_nm=0.05, about=GOLD, where=Path("x.tif"))
    completion = Completion(IMAGE, np.abs(IMAGE))
    return [CompletedScan(scan, completion, completer.card, CHECK)] * 2


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("num", [1, 2])
def test_every_format_holds_image_error_map_and_what_is_known(tmp_path, gold, suffix, num):
    image = tmp_path / f"x_completed{suffix}"
    outputs = Outputs(error_map=True, png=True, self_check=True)
    *_, last = write_completion(gold[:num], image, outputs, {"scan": "1"})
    assert last == image
    info = read_info(image)
    assert (info["title"], info["intensity_unit"]) == ("gold", "nA")
    assert info["acquisition"] == GOLD.metadata
    assert [check["num_pixels"] for check in info["self_check"]] == [7] * num
    assert info["self_check"][0]["deviation"] is None
    assert info["options"] == {"self_check": True, "keep_measured": False}
    assert (tmp_path / "x_completed.png").exists()
    if suffix == ".ome.zarr":
        found = read_micrographs(image)
    else:
        found = [*read_micrographs(image), *read_micrographs(tmp_path / f"x_error{suffix}")]
    expected = [IMAGE] * num + [np.abs(IMAGE)] * num
    np.testing.assert_array_equal([each.pixels for each in found], expected)
    if suffix != ".npy":
        assert [each.pixel_size_nm for each in found] == pytest.approx([0.05] * 2 * num)
        assert found[0].about.title == "gold"
        assert found[0].about.unit == "nA"
    assert why_again(image, outputs, {"scan": "1"}) is None
    assert why_again(image, outputs, {"scan": "2"}) == "done again, as its scan changed"


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_error_map_that_is_missing_is_made(tmp_path, gold, suffix):
    image = tmp_path / f"x_completed{suffix}"
    write_completion(gold, image, Outputs(), {"scan": "1"})
    assert why_again(image, Outputs(), {"scan": "1"}) is None
    assert why_again(image, Outputs(error_map=True), {"scan": "1"}) == ""


@pytest.mark.parametrize("num", [1, 2])
def test_tifffile_and_rosettasciio_read_size_unit_and_title(tmp_path, gold, num):
    image = tmp_path / "x_completed.tif"
    write_completion(gold[:num], image)
    with tifffile.TiffFile(image) as tiff:
        metadata, page = tiff.imagej_metadata, tiff.pages[0]
    numerator, denominator = page.tags["XResolution"].value
    assert denominator / numerator == pytest.approx(0.05, rel=1e-6)
    assert (metadata["unit"], metadata["vunit"]) == ("nm", "nA")
    assert metadata["Labels"] == ("gold" if num == 1 else ["gold"] * num)
    told = json.loads(metadata["Info"])
    assert (told["title"], told["acquisition"]) == ("gold", GOLD.metadata)
    (signal,) = file_reader(str(image))
    np.testing.assert_array_equal(signal["data"].reshape(-1, *IMAGE.shape), [IMAGE] * num)
    for axis in signal["axes"][-2:]:
        assert axis["scale"] == pytest.approx(0.05, rel=1e-6)
        assert axis["units"] == "nm"
    assert signal["metadata"]["Signal"]["quantity"] == "nA"
    assert json.loads(signal["original_metadata"]["IJMetadata"]["Info"])["title"] == "gold"


@pytest.mark.parametrize(("unit", "written"), [("µA", "uA"), ("e⁻", "e?")])
def test_units_that_tiff_cannot_spell_are_whole_in_the_info(tmp_path, unit, written):
    write_tiff(tmp_path / "image.tif", IMAGE, None, {"intensity_unit": unit})
    with tifffile.TiffFile(tmp_path / "image.tif") as tiff:
        assert tiff.imagej_metadata["vunit"] == written
    assert read_info(tmp_path / "image.tif")["intensity_unit"] == unit
