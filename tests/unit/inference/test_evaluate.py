from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from stem_complete.config import DetectorNoiseConfig, NoNoiseConfig
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError, DataError
from stem_complete.evaluation import linear
from stem_complete.inference import evaluate, evaluate_published
from stem_complete.scan import archimedean, blur


def _scores(report):
    return {(row.image, row.coverage, row.method): row.scores for row in report.rows}


def test_scores_are_those_of_the_scans(small_store, completer):
    """Done again by hand for one crop, without noise."""
    report = evaluate(
        small_store,
        completer=completer,
        coverages=["1/8"],
        noise=NoNoiseConfig(),
        baselines=["linear"],
        num_images=3,
    )
    store = MicrographStore(small_store)
    crop = int(store.indices("test")[0])
    unblurred = store.read([crop])[0, 0]
    truth = blur(torch.from_numpy(unblurred)[None, None], 2.5)[0, 0].numpy()
    dwell = archimedean(truth.shape, "1/8").dwell_map().numpy()
    intensity = np.where(dwell > 0, truth, np.nan)

    model, baseline = report.rows[:2]
    completed = completer.complete(intensity, dwell)
    for row, image in ((model, completed.image), (baseline, linear(intensity, dwell))):
        assert row.scores.rmse == pytest.approx(
            np.sqrt(np.mean((image - truth) ** 2)) / 2, rel=1e-4
        )
        unblurred_error = np.sqrt(np.mean((image - unblurred) ** 2)) / 2
        assert row.unblurred_rmse == pytest.approx(unblurred_error, rel=1e-4)
    expected = np.sqrt(np.mean(completed.error**2)) / 2
    assert model.expected_rmse == pytest.approx(expected, rel=1e-4)
    assert baseline.expected_rmse is None
    assert report.setup["scan"]["noise"] == {"kind": "none"}


def test_every_method_sees_every_scan(small_store, completer):
    calls = []
    report = evaluate(
        small_store,
        completer=completer,
        coverages=["1/8", 0.05],
        baselines=["nearest", "linear"],
        num_images=2,
        progress=lambda *call: calls.append(call),
    )
    assert len(_scores(report)) == 2 * 2 * 3
    assert report.setup["coverages"] == ["1/8", "1/20"]
    assert calls == [(n, 4) for n in range(1, 5)]
    assert [s.num_images for s in report.summaries()] == [2] * 6
    # Less of the image means larger errors.
    by_coverage = {s.coverage: s.rmse.mean for s in report.summaries() if s.method == "linear"}
    assert by_coverage["1/20"] > by_coverage["1/8"]


def test_noise_follows_the_seed_and_the_crop(small_store):
    def scores(seed: int, num_images: int) -> dict:
        report = evaluate(
            small_store, baselines=["nearest"], seed=seed, num_images=num_images,
            coverages=["1/8"], noise=DetectorNoiseConfig(dose_electrons_per_px=50),
        )  # fmt: skip
        return _scores(report)

    once = scores(0, 2)
    assert scores(0, 2) == once
    assert scores(1, 2) != once
    # The first crop is in both choices, and its scan is the same.
    assert next(iter(scores(0, 1).items())) in once.items()


def test_files_are_cut_into_crops(tmp_path, texture):
    image = texture(0, (520, 1030))
    tifffile.imwrite(tmp_path / "wide.tif", (1000 * image + 5000).astype(np.uint16))
    tifffile.imwrite(tmp_path / "small.tif", texture(1).astype(np.float32))
    (tmp_path / "broken.tif").write_bytes(b"II*\x00")
    report = evaluate(tmp_path, baselines=["nearest"], coverages=["1/20"])
    assert {row.image for row in report.rows} == {"wide at 4, 3", "wide at 4, 515"}
    assert len(report.left_out) == 2
    assert report.setup["split"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"coverages": ["20"]}, "did you mean", id="coverage"),
        pytest.param({"coverages": ["a"]}, "fraction", id="no-number"),
        pytest.param({"baselines": ["magic"]}, "baselines among", id="baseline"),
        pytest.param({"baselines": []}, "neither", id="nothing"),
    ],
)
def test_wrong_use_is_refused(small_store, arguments, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(small_store, num_images=1, **arguments)


def test_no_micrographs_are_said_to_be_none(tmp_path, texture):
    np.save(tmp_path / "small.npy", texture(1))
    with pytest.raises(DataError, match=r"512 px or larger, found .*smaller"):
        evaluate(tmp_path / "small.npy")


@pytest.fixture(scope="module")
def published():
    return evaluate_published(baselines=["nearest", "linear", "normalised_convolution"])


class TestPublishedScans:
    def test_are_the_three_triples(self, published):
        assert {row.image for row in published.rows} == {"truth-1", "truth-2", "truth-3"}
        assert {row.coverage for row in published.rows} == {"1/22.1"}  # nominally 1/20

    def test_the_baseline_that_averages_noise_away_is_best(self, published):
        means = {s.method: s.rmse.mean for s in published.summaries()}
        assert means["normalised_convolution"] < means["linear"] < means["nearest"]

    def test_the_blurred_truth_is_nearer_than_the_original(self, published):
        for row in published.rows:
            assert row.scores.rmse < row.unblurred_rmse
