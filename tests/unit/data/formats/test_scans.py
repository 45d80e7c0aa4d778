"""Partial scans from files, and the authors' encoding undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from stem_complete.data.bundled import PublishedTriple, published_triples
from stem_complete.data.formats.published import published_scale, read_published_scan
from stem_complete.data.formats.scans import read_scan
from stem_complete.errors import DataError

RNG = np.random.default_rng(0)
INTENSITY = RNG.uniform(100, 200, (20, 24)).astype(np.float32)
DWELL = (RNG.uniform(0, 1, (20, 24)) * (RNG.uniform(0, 1, (20, 24)) < 0.3)).astype(np.float32)
MEASURED = DWELL > 0


def save(path: Path, values: NDArray[Any]) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        tifffile.imwrite(path, values)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_scan_with_a_dwell_file(tmp_path: Path, suffix: str) -> None:
    scan = read_scan(save(tmp_path / f"a{suffix}", INTENSITY), save(tmp_path / "d.npy", DWELL))
    np.testing.assert_array_equal(scan.dwell, DWELL)
    np.testing.assert_array_equal(np.isnan(scan.intensity), ~MEASURED)
    np.testing.assert_array_equal(scan.intensity[MEASURED], INTENSITY[MEASURED])
    assert (scan.intensity.dtype, scan.dwell.dtype) == (np.float64, np.float32)


@pytest.mark.parametrize("unmeasured", [np.nan, 0.0], ids=["nan", "zero"])
def test_scan_alone(tmp_path: Path, unmeasured: float) -> None:
    image = np.where(MEASURED, INTENSITY, unmeasured).astype(np.float32)
    scan = read_scan(save(tmp_path / "a.tif", image))
    np.testing.assert_array_equal(scan.dwell, MEASURED.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(scan.intensity), ~MEASURED)


def test_zeros_are_measured_where_nan_marks_the_rest(tmp_path: Path) -> None:
    image = np.where(MEASURED, INTENSITY, np.nan)
    row, column = np.argwhere(MEASURED)[0]
    image[row, column] = 0
    scan = read_scan(save(tmp_path / "a.npy", image))
    assert (scan.intensity[row, column], scan.dwell[row, column]) == (0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_masks_of_whole_numbers_are_shares_of_their_maximum(tmp_path: Path, dtype: Any) -> None:
    mask = (MEASURED * (255 if dtype is np.uint8 else 1)).astype(dtype)
    scan = read_scan(save(tmp_path / "a.npy", INTENSITY), save(tmp_path / "d.npy", mask))
    np.testing.assert_array_equal(scan.dwell, MEASURED.astype(np.float32))


def test_intensity_and_dwell_in_one_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", dwell=DWELL, intensity=INTENSITY)
    scan = read_scan(tmp_path / "a.npz")
    np.testing.assert_array_equal(scan.dwell, DWELL)
    np.testing.assert_array_equal(scan.intensity[MEASURED], INTENSITY[MEASURED])


def test_pixel_size_comes_along(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, INTENSITY, imagej=True, resolution=(50, 50), metadata={"unit": "nm"})
    assert read_scan(path).pixel_size_nm == pytest.approx(0.02)


NAN_MEASURED = np.where(np.cumsum(MEASURED).reshape(MEASURED.shape) == 5, np.nan, INTENSITY)
BAD: dict[str, tuple[NDArray[Any], NDArray[Any] | None, str, str]] = {
    "shapes differ": (INTENSITY, DWELL.T, "d.npy", r"shape \(20, 24\), found \(24, 20\)"),
    "no dwell": (INTENSITY, 0 * DWELL, "a.npy", "found none"),
    "negative dwell": (INTENSITY, DWELL - 0.5, "d.npy", "dwell times of 0 or more"),
    "nan dwell": (INTENSITY, DWELL * np.nan, "d.npy", "NaN or infinite"),
    "dwell in microseconds": (INTENSITY, DWELL * 99, "d.npy", "a full pixel dwell"),
    "nothing measured": (0 * INTENSITY, None, "a.npy", "at least one measured pixel"),
    "all nan": (INTENSITY * np.nan, None, "a.npy", "at least one measured pixel"),
    "infinite": (np.where(MEASURED, np.inf, np.nan), None, "a.npy", "infinite ones"),
    "constant": (np.where(MEASURED, 7.0, np.nan), None, "a.npy", "found 7 in all"),
    "complex": (1j * INTENSITY, None, "a.npy", "complex"),
    "stack": (np.stack([INTENSITY] * 2), None, "a.npy", "one scan, found 2 scans"),
}


@pytest.mark.parametrize(("intensity", "dwell", "named", "found"), [*BAD.values()], ids=[*BAD])
def test_bad_scans_give_one_line_that_names_the_file(
    tmp_path: Path, intensity: NDArray[Any], dwell: NDArray[Any] | None, named: str, found: str
) -> None:
    path = save(tmp_path / "a.npy", intensity)
    dwell_path = None if dwell is None else save(tmp_path / "d.npy", dwell)
    with pytest.raises(DataError, match=found) as caught:
        read_scan(path, dwell_path)
    assert str(caught.value).startswith(str(tmp_path / named))
    assert "\n" not in str(caught.value)


# --- the published files ----------------------------------------------------------------------


def stretched_blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """5 x 5 Gaussian, sigma 2.5 px, mirrored border, stretched to [-1, 1] by its min and max."""
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 2.5**2))
    for axis in (0, 1):
        x = correlate1d(x, weights / weights.sum(), axis, mode="mirror")
    return 2 * (x - x.min()) / (x.max() - x.min()) - 1


# The only S for which every pixel of the file lies between U = 0 and U = 1, to 1e-5.
SCALES = (1.70717, 1.35725, 1.50672)


@pytest.mark.parametrize(("triple", "scale"), [*zip(published_triples(), SCALES, strict=True)])
def test_published_scans_agree_with_their_truth(triple: PublishedTriple, scale: float) -> None:
    scan = read_published_scan(triple.scan, triple.dwell)
    measured = scan.dwell > 0
    dwell = scan.dwell[measured].astype(np.float64)
    found = published_scale(tifffile.imread(triple.scan)[measured], scan.dwell[measured])
    assert found == pytest.approx(scale, rel=2e-3)

    truth = 2 * tifffile.imread(triple.truth).astype(np.float64) - 1
    x, b = truth[measured], stretched_blur(truth)[measured]
    low = dwell * x + 2 * (1 - dwell) * np.minimum(b, 0)  # U = 0 or 1
    high = dwell * x + 2 * (1 - dwell) * np.maximum(b, 0)
    intensity = scan.intensity[measured]
    outside = np.maximum(low - intensity, intensity - high).clip(0)
    assert outside.max() < 0.02
    assert outside.mean() < 2e-4
    clear = np.abs(b) > 0.2
    noise = (intensity - dwell * x)[clear] / (2 * (1 - dwell) * b)[clear]
    assert noise.mean() == pytest.approx(0.5, abs=0.01)  # U is uniform in [0, 1)
    assert noise.std() == pytest.approx(12**-0.5, abs=0.01)
    assert scan.dwell.mean() == pytest.approx(0.0453, abs=1e-4)


def test_the_published_encoding_is_recovered_from_any_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    dwell = rng.integers(0, 11, (200, 200)) / 16
    x = np.clip(0.3 + 0.2 * rng.normal(size=dwell.shape), -1, 1)
    det = dwell * (dwell * x + 2 * (1 - dwell) * rng.uniform(size=dwell.shape) * 0.3)
    encoded = np.where(dwell > 0, (det + 1) / (1 + det.max()), 0)
    scan = read_published_scan(
        save(tmp_path / "a.npy", encoded), save(tmp_path / "d.npy", dwell.astype(np.float32))
    )
    error = scan.intensity - np.where(dwell > 0, det / np.where(dwell > 0, dwell, 1), np.nan)
    assert np.nanmax(np.abs(error * dwell)) < 3e-3  # S is off by less than this
    np.testing.assert_array_equal(np.isnan(scan.intensity), dwell == 0)


@pytest.mark.parametrize("factor", [-1.0, 50.0], ids=["negative", "large"])
def test_other_encodings_are_refused(tmp_path: Path, factor: float) -> None:
    triple = published_triples()[0]
    path = save(tmp_path / "a.tif", factor * tifffile.imread(triple.scan))
    with pytest.raises(DataError, match="ordinary partial scan"):
        read_published_scan(path, triple.dwell)


def test_a_binary_mask_does_not_determine_the_scale(tmp_path: Path) -> None:
    scan = save(tmp_path / "a.npy", np.where(MEASURED, INTENSITY / 200, 0))
    with pytest.raises(DataError, match="ordinary partial scan"):
        read_published_scan(scan, save(tmp_path / "d.npy", MEASURED))
