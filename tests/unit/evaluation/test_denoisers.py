"""Denoisers of scans whose electrons were counted."""

from __future__ import annotations

import numpy as np
import pytest

from stem_complete.data.bundled import published_triples
from stem_complete.data.scans import RasterScan
from stem_complete.errors import MissingPackageError
from stem_complete.evaluation import (
    Baseline,
    KnownScan,
    baseline_methods,
    evaluate_published,
    known_scans,
    rmse,
)
from stem_complete.evaluation.denoisers import bm3d, non_local_means

WHITE = {"non_local_means": {"filtering": 0.6, "noise_std": 1.0}, "bm3d": {"strength": 1.0}}


def steps(shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Bars of two grey levels, of a specimen from -1 to 1."""
    return np.broadcast_to(np.where(np.arange(shape[1]) // 8 % 2, 0.5, -0.5), shape)


def counted(image: np.ndarray, dose: float, seed: int = 0) -> RasterScan:
    """A full raster of `image`, electrons counted in each pixel."""
    electrons = np.random.default_rng(seed).poisson(dose * (image + 1) / 2)
    return RasterScan(2 * electrons / dose - 1, np.ones(image.shape), intensity_range=(-1.0, 1.0))


def denoised(name: str, scan: RasterScan, dose: float, **options: object) -> np.ndarray:
    pytest.importorskip("bm3d") if name == "bm3d" else None
    denoise = {"non_local_means": non_local_means, "bm3d": bm3d}[name]
    return denoise(scan, dose_electrons_per_px=dose, **WHITE[name], **options)


@pytest.mark.parametrize("name", WHITE)
def test_noise_goes_and_edges_stay(name: str) -> None:
    scan = counted(steps(), 20)
    raw, image = scan.intensity, denoised(name, scan, 20)
    assert rmse(steps(), image) < 0.35 * rmse(steps(), raw)
    # A blur would leave an edge a third of its height.
    assert abs(np.diff(image, axis=1)).max() > 0.7
    assert rmse(steps(), denoised(name, scan, 20, blurred=True)) > 2 * rmse(steps(), image)


@pytest.mark.parametrize("level", [-0.9, 0.0, 0.8])
def test_the_mean_of_few_electrons_is_kept(level: float) -> None:
    """Without the unbiased inverse it would be off by a twentieth of the range."""
    scan = counted(np.full((96, 96), level), 2.0)
    image = non_local_means(scan, dose_electrons_per_px=2.0, filtering=3.0)
    assert image.mean() == pytest.approx(level, abs=0.04)


def test_gaps_are_filled() -> None:
    y, x = np.indices((64, 64))
    image = 0.8 * np.sin(x / 6) * np.cos(y / 7)
    visited = np.random.default_rng(1).random(image.shape) < 0.5
    full = counted(image, 1000)
    scan = RasterScan(full.intensity, visited.astype(np.float32), intensity_range=(-1.0, 1.0))
    found = non_local_means(scan, dose_electrons_per_px=1000, filtering=0.3)
    assert rmse(image, found) < 0.05


def test_they_suit_dense_and_noisy_scans_alone() -> None:
    method = Baseline("non_local_means")
    assert method.suits("archimedean", "1/5", "dose 20")
    assert method.suits("random", "1/2", "dose 300")
    for labels in (("1/10", "dose 20"), ("1/2", "none"), ("1/2", "published")):
        assert not method.suits("archimedean", *labels)


def test_the_dose_comes_from_the_scan() -> None:
    scan, image = counted(steps(), 20), steps()
    known = KnownScan("a", "a", "random", "1/2", "dose 20", scan, image, image)
    method = Baseline("non_local_means", {"filtering": 0.6})
    by_hand = non_local_means(scan, dose_electrons_per_px=20, filtering=0.6)
    np.testing.assert_array_equal(method(known).image, by_hand)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stem_complete.extras.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"stem-complete\[bm3d\]"):
        baseline_methods(["bm3d"])


def test_published_scans_have_no_dose_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_scans, "published_triples", lambda: published_triples()[:1])
    report = evaluate_published(baseline_methods(["nearest", "non_local_means"]))
    assert {row.method for row in report.rows} == {"nearest"}
