"""The grid of crops, and which are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stem_complete.data.bundled import example_micrographs
from stem_complete.data.formats.micrographs import Micrograph, read_micrograph
from stem_complete.data.store.cropping import cut, fault

NOISE = np.random.default_rng(0).normal(100, 10, (64, 64))


def micrograph(pixels: NDArray[Any]) -> Micrograph:
    return Micrograph(pixels, None, "HAADF", 3, Path("a.tif"))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(4, 32))
def test_crops_tile_the_middle_of_the_image(height: int, width: int, size: int) -> None:
    pixels = np.arange(height * width).reshape(height, width)
    crops, left_out = cut(micrograph(pixels), size, "uint16")
    if min(height, width) < size:
        assert not crops
        assert "smaller than a crop" in left_out[0].reason
        return
    assert not left_out
    assert len(crops) == (height // size) * (width // size)
    for crop in crops:
        end = (crop.row + size, crop.column + size)
        np.testing.assert_array_equal(crop.pixels, pixels[crop.row : end[0], crop.column : end[1]])
    values = np.concatenate([crop.pixels.ravel() for crop in crops])
    assert len(np.unique(values)) == len(values)  # no overlap
    for start, side, place in (
        (min(crop.row for crop in crops), height, max(crop.row for crop in crops)),
        (min(crop.column for crop in crops), width, max(crop.column for crop in crops)),
    ):
        margin_after = side - (place + size)
        assert 0 <= margin_after - start <= 1  # centred


def changed(values: dict[tuple[int, int], float]) -> NDArray[np.float64]:
    image = NOISE.copy()
    for place, value in values.items():
        image[place] = value
    return image


FAULTS: dict[str, tuple[NDArray[Any], str]] = {
    "nan": (changed({(1, 2): np.nan}), "NaN or Inf, 1 pixel"),
    "inf": (changed({(1, 2): np.inf, (3, 4): -np.inf}), "NaN or Inf, 2 pixels"),
    "constant": (np.full((64, 64), 7), "constant, every pixel 7"),
    "subnormal contrast": (1e-40 * NOISE, "constant"),
    "huge": (1e36 * NOISE, "values beyond 1e"),
    "saturated": (np.minimum(NOISE, 100), "saturated, 49%"),
    "blank but for a dead pixel": (changed({(1, 2): 1e6}), "blank, 99% of the pixels within 0.0"),
}


@pytest.mark.parametrize(("pixels", "reason"), [*FAULTS.values()], ids=[*FAULTS])
def test_faulty_crops_are_left_out_with_the_reason(pixels: NDArray[Any], reason: str) -> None:
    crops, left_out = cut(micrograph(pixels), 64, "uint16")
    assert not crops
    [record] = left_out
    assert record.reason.startswith(reason[:20])
    assert reason in record.reason
    place = (record.path, record.signal, record.frame, record.row, record.column)
    assert place == ("a.tif", "HAADF", 3, 0, 0)


@pytest.mark.parametrize(("number", "is_blank"), [(20, True), (21, False)])
def test_half_a_percent_of_the_pixels_is_no_contrast(number: int, is_blank: bool) -> None:
    pixels = NOISE.copy()  # [64, 64], of which 20 are the first whole number below 0.5%
    pixels.flat[np.arange(number) * 100] = 1e6
    assert bool(fault(pixels)) == is_blank


def test_only_the_faulty_crops_of_an_image_are_left_out() -> None:
    pixels = np.tile(NOISE, (2, 2))
    pixels[70, 5] = np.nan
    crops, left_out = cut(micrograph(pixels), 64, "uint16")
    assert [(crop.row, crop.column) for crop in crops] == [(0, 0), (0, 64), (64, 64)]
    assert [(record.row, record.column) for record in left_out] == [(64, 0)]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float16", "float64"])
def test_ordinary_crops_have_no_fault(dtype: str) -> None:
    assert fault(NOISE.astype(dtype)) is None


def test_what_float32_cannot_tell_apart_is_constant_only_there() -> None:
    pixels = 1e12 + NOISE
    assert len(cut(micrograph(pixels), 64, "uint16")[0]) == 1
    assert "constant" in cut(micrograph(pixels), 64, "float32")[1][0].reason


@pytest.mark.parametrize("path", example_micrographs(), ids=lambda path: path.stem)
def test_real_micrographs_have_no_faults(path: Path) -> None:
    crops, left_out = cut(read_micrograph(path), 512, "uint16")
    assert crops
    assert not left_out
