from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.inference import CompletedScan, Completion, Outputs, write_completion
from stem_complete.inference.image_files import (
    display_range,
    read_info,
    why_again,
    write_png,
    write_tiff,
)

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
