from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from stem_complete.cli import app
from stem_complete.config import DetectorNoiseConfig, NoNoiseConfig
from stem_complete.data.scans import RasterScan
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError, DataError
from stem_complete.evaluation import (
    MODEL,
    Condition,
    Model,
    baseline_methods,
    conditions_of,
    evaluate,
    linear,
    load_micrographs,
)
from stem_complete.scan import archimedean, blur, nominal_archimedean


def _scores(report):
    return {(row.image, row.coverage, row.method): row.rmse for row in report.rows}


def test_scores_are_those_of_the_scans(small_store, completer):
    """Done again by hand for one crop, without noise."""
    report = evaluate(
        load_micrographs(small_store, max_images=3),
        {MODEL: Model(completer)} | baseline_methods(["linear"]),
        conditions_of(completer.card, ["1/8"], [NoNoiseConfig()]),
    )
    store = MicrographStore(small_store)
    crop = int(store.indices("test")[0])
    unblurred = store.read([crop])[0, 0]
    truth = blur(torch.from_numpy(unblurred)[None, None], 2.5)[0, 0].numpy()
    dwell = archimedean(truth.shape, "1/8").dwell_map().numpy()
    intensity = np.where(dwell > 0, truth, np.nan)

    model, baseline = report.rows[:2]
    completed = completer.complete(intensity, dwell)
    for row, image in ((model, completed.image), (baseline, linear(RasterScan(intensity, dwell)))):
        assert row.rmse == pytest.approx(np.sqrt(np.mean((image - truth) ** 2)) / 2, rel=1e-4)
        unblurred_error = np.sqrt(np.mean((image - unblurred) ** 2)) / 2
        assert row.unblurred_rmse == pytest.approx(unblurred_error, rel=1e-4)
    expected = np.sqrt(np.mean(completed.error**2)) / 2
    assert model.expected_rmse == pytest.approx(expected, rel=1e-4)
    assert baseline.expected_rmse is None
    assert report.setup["conditions"][0]["noise"] == {"kind": "none"}


def test_every_method_sees_every_scan(small_store, completer):
    calls = []
    report = evaluate(
        load_micrographs(small_store, max_images=2),
        {MODEL: Model(completer)} | baseline_methods(["nearest", "linear"]),
        conditions_of(completer.card, ["1/8", 0.05]),
        progress=lambda *call: calls.append(call),
    )
    assert len(_scores(report)) == 2 * 2 * 3
    assert [call[:2] for call in calls] == [(n, 4) for n in range(1, 5)]
    eighth, twentieth = report.cells()
    assert (eighth.coverage, twentieth.coverage) == ("1/8", "1/20")
    assert eighth.num_images == twentieth.num_images == 2
    # Less of the image means larger errors.
    assert twentieth.methods["linear"].rmse.mean > eighth.methods["linear"].rmse.mean


def test_noise_follows_the_seed_and_the_crop(small_store):
    condition = Condition("archimedean", 1 / 8, DetectorNoiseConfig(dose_electrons_per_px=50))

    def scores(seed: int, num_images: int) -> dict:
        micrographs = load_micrographs(small_store, max_images=num_images)
        return _scores(evaluate(micrographs, baseline_methods(["nearest"]), [condition], seed=seed))

    once = scores(0, 2)
    assert scores(0, 2) == once
    assert scores(1, 2) != once
    # The first crop is in both choices, and its scan is the same.
    assert next(iter(scores(0, 1).items())) in once.items()


def test_the_command_judges_a_model_at_several_coverages(small_store, model_folder):
    options = ["--data", str(small_store), "--num-images", "2", "--baseline", "linear"]
    options += ["--coverage", "1/10", "--coverage", "1/20"]
    done = CliRunner().invoke(app, ["evaluate", "--model", str(model_folder), *options])
    assert done.exit_code == 0, done.output
    assert "coverage 1/10" in done.stdout
    assert "coverage 1/20" in done.stdout
    assert "| model" in done.stdout


def test_nominal_coverages_are_those_of_the_published_drawing():
    (condition,) = conditions_of(None, ["1/20"])
    nominal = condition._replace(geometry="nominal")
    dwell = nominal.simulator((64, 64), 0).dwell[0, 0]
    expected = nominal_archimedean((64, 64), "1/20").dwell_map()
    torch.testing.assert_close(dwell, expected, rtol=0, atol=0)


def test_files_are_cut_into_crops(tmp_path, texture):
    image = texture(0, (520, 1030))
    tifffile.imwrite(tmp_path / "wide.tif", (1000 * image + 5000).astype(np.uint16))
    tifffile.imwrite(tmp_path / "small.tif", texture(1).astype(np.float32))
    (tmp_path / "broken.tif").write_bytes(b"II*\x00")
    micrographs = load_micrographs(tmp_path)
    assert [crop.name for crop in micrographs.crops] == ["wide at 4, 3", "wide at 4, 515"]
    assert len(micrographs.left_out) == 2
    assert micrographs.split is None


@pytest.mark.parametrize(
    ("coverage", "message"),
    [("20", "did you mean"), ("a", "fraction")],
)
def test_a_coverage_must_be_one(coverage, message):
    with pytest.raises(ConfigError, match=message):
        conditions_of(None, [coverage])


def test_a_baseline_must_be_known():
    with pytest.raises(ConfigError, match="baselines among"):
        baseline_methods(["magic"])


def test_there_must_be_something_to_evaluate(small_store):
    with pytest.raises(ConfigError, match="neither"):
        evaluate(load_micrographs(small_store, max_images=1), {}, conditions_of(None))


def test_no_micrographs_are_said_to_be_none(tmp_path, texture):
    np.save(tmp_path / "small.npy", texture(1))
    with pytest.raises(DataError, match=r"512 px or larger, found .*smaller"):
        load_micrographs(tmp_path / "small.npy")
