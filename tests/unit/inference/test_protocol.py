from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tifffile
from matplotlib.image import imread
from typer.testing import CliRunner

from stem_complete.cli import app
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError, DataError
from stem_complete.inference import build_artifact, load_completer, protocol, run_protocol
from stem_complete.inference.completer import Completer
from stem_complete.inference.export import training_sources
from stem_complete.inference.protocol import COVERAGES, METHODS, NOISES, draw_worst
from stem_complete.inference.protocol_report import ProtocolReport, ProtocolRow
from stem_complete.scan import GEOMETRIES


@pytest.fixture(scope="module")
def report(small_store, completer):
    return run_protocol(small_store, completer=completer)


def test_every_method_sees_every_scan(small_store, report):
    store = MicrographStore(small_store)
    num_images = min(len(store.indices("test")), protocol.MAX_PER_FIELD)
    assert len({row.field for row in report.rows}) == 1
    assert len(report.rows) == num_images * len(GEOMETRIES) * len(COVERAGES) * len(NOISES)
    assert all(set(row.rmse) == {*METHODS, "model"} for row in report.rows)
    cells = report.cells()
    assert [(c.geometry, c.coverage, c.noise) for c in cells][:3] == [
        ("archimedean", "1/10", "none"),
        ("archimedean", "1/10", "reference"),
        ("archimedean", "1/17.9", "none"),
    ]
    assert all(cell.num_images == num_images for cell in cells)
    assert all(cell.rmse[method] > 0 for cell in cells for method in cell.rmse)


def test_a_first_completion_is_shown_beside_the_model(tmp_path, texture, monkeypatch):
    np.save(tmp_path / "one.npy", texture(0, (512, 512)))
    monkeypatch.setattr(protocol, "COVERAGES", (1 / 20,))
    monkeypatch.setattr(protocol, "GEOMETRIES", {"drawn": GEOMETRIES["drawn"]})
    monkeypatch.setattr(protocol, "NOISES", {"none": NOISES["none"]})
    (cell,) = run_protocol(tmp_path, completer=load_completer()).cells()
    assert list(cell.rmse) == [*METHODS, "first_completion", "model"]
    assert 0 < cell.rmse["first_completion"] < cell.rmse["nearest"]


def test_numbers_reproduce_bit_for_bit(small_store, completer, report, monkeypatch):
    monkeypatch.setattr(protocol, "COVERAGES", COVERAGES[1:3])
    calls = []
    again = run_protocol(
        small_store, completer=completer, progress=lambda *call: calls.append(call)
    )
    assert again.rows == [row for row in report.rows if row.coverage in ("1/17.9", "1/20")]
    assert again.cells() == [c for c in report.cells() if c.coverage in ("1/17.9", "1/20")]
    assert again.setup["data_sha256"] == report.setup["data_sha256"]
    assert calls[-1] == (len(again.rows), len(again.rows))


def test_hashes_tell_what_was_evaluated(small_store, completer, report, tmp_path, texture):
    assert report.setup["model_sha256"] == completer.card.weights_sha256
    assert report.setup["versions"].keys() >= {"stem_complete", "torch", "numpy"}

    def data_hash() -> str:
        crops, _ = protocol.load_micrographs(tmp_path)
        return protocol._data_hash(crops)

    image = texture(0, (512, 512)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image)
    first = data_hash()
    assert data_hash() == first
    image[100, 100] += 0.01
    tifffile.imwrite(tmp_path / "a.tif", image)
    assert data_hash() != first
    assert report.setup["data_sha256"] != first


def test_no_field_of_view_dominates_and_names_do_not_repeat(tmp_path, texture):
    np.save(tmp_path / "large.npy", texture(0, (1024, 1536)))
    np.save(tmp_path / "small_c1.npy", texture(1, (512, 512)))
    np.save(tmp_path / "small_c2.npy", texture(2, (512, 512)))
    crops, left_out = protocol.load_micrographs(tmp_path, max_per_field=4)
    assert [crop.name.split()[0] for crop in crops] == ["large"] * 4 + ["small_c1", "small_c2"]
    assert len({crop.name for crop in crops}) == 6
    assert len({crop.field for crop in crops}) == 2
    assert not left_out
    # The noise of a crop is its own, whatever else there is.
    alone, _ = protocol.load_micrographs(tmp_path / "small_c2.npy")
    (once,) = protocol.simulate_protocol(alone, 1 / 20, "reference")
    *_, last = protocol.simulate_protocol(crops, 1 / 20, "reference")
    np.testing.assert_array_equal(once.intensity, last.intensity)


def test_training_files_are_left_out(small_store, network, config):
    sources = training_sources(MicrographStore(small_store))
    trained = Completer(build_artifact(network, config=config, training_data=sources), "cpu")
    with pytest.raises(DataError, match="not trained on"):
        run_protocol(small_store, completer=trained, split="train")


def test_the_worst_scans_are_drawn(small_store, report, completer, tmp_path):
    worst = report.worst(2)
    assert len({w.row.image for w in worst}) == len(worst) == 2
    draw_worst(worst, tmp_path / "worst.png", small_store, completer=completer)
    assert imread(tmp_path / "worst.png").shape[0] > 1000


def test_the_command_writes_report_and_pictures(small_store, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "COVERAGES", (1 / 10,))
    options = ["--data", str(small_store), "--output", str(tmp_path / "out")]
    alone = CliRunner().invoke(app, ["protocol", *options])
    assert alone.exit_code == 0, alone.output
    assert "baselines alone" in alone.stdout
    done = CliRunner().invoke(app, ["protocol", *options, "--model", str(model_folder), "--json"])
    assert done.exit_code == 0, done.output
    written = (tmp_path / "out" / "protocol.json").read_text()
    assert done.stdout == written
    assert len(json.loads(written)["cells"]) == 4
    table = (tmp_path / "out" / "protocol.md").read_text()
    assert "| archimedean |" in table
    assert "| drawn       |" in table
    assert (tmp_path / "out" / "worst.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--split", "all", "--output", "out"], "train or validation", id="split"),
        pytest.param(["--output", __file__], "a folder, found a file", id="output"),
    ],
)
def test_wrong_use_is_refused(options, message, small_store):
    done = CliRunner().invoke(app, ["protocol", "--data", str(small_store), *options])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def _row(image, field, model, coverage="1/20"):
    errors = {"nearest": 0.2, "harmonic": 0.1, "model": model}
    return ProtocolRow(image, field, "archimedean", coverage, "none", errors, errors)


REPORT = ProtocolReport(
    rows=[
        _row("a", "/data/one", 0.05),
        _row("b", "/data/one", 0.07),
        _row("c", "/data/two", 0.12),
        _row("a", "/data/one", 0.09, coverage="1/50"),
    ],
    setup={
        "model": "tiny",
        "model_sha256": "1f",
        "data_sha256": "2e",
        "max_images_per_field": 4,
        "truth_blur_sigma_px": 2.5,
        "seed": 0,
        "versions": {"numpy": "2"},
    },
    left_out=["d: constant"],
)


def test_ratio_interval_and_share_are_those_of_the_best_baseline():
    first, second = REPORT.cells()
    assert (first.num_images, first.num_fields, first.best_baseline) == (3, 2, "harmonic")
    assert first.ratio == pytest.approx(0.8)
    # Only field one, or only field two.
    assert first.interval == pytest.approx((0.6, 1.2))
    assert first.share_better == pytest.approx(2 / 3)
    assert second.interval is None


def test_the_worst_come_first_and_each_image_once():
    assert [(w.row.image, w.row.coverage, w.best_baseline) for w in REPORT.worst(10)] == [
        ("c", "1/20", "harmonic"),
        ("a", "1/50", "harmonic"),
        ("b", "1/20", "harmonic"),
    ]


def test_markdown_has_the_tables():
    text = REPORT.markdown()
    assert "tiny, weights SHA-256 1f" in text
    assert "3 crops of 2 fields of view (at most 4 of each), SHA-256 2e" in text
    assert "|   20.00 | **10.00** |  8.00 | 0.800 [0.600, 1.200] |   67 % |" in text
    assert (
        "| archimedean |     1/20 |  none |      harmonic |    10.00 |       12.00 |  1.20" in text
    )


def test_what_the_network_corrects_is_no_baseline():
    rows = []
    for row in REPORT.rows:
        errors = row.rmse | {"first_completion": 0.01}
        rows.append(row._replace(rmse=errors, unblurred_rmse=errors))
    report = ProtocolReport(rows, REPORT.setup, [])
    assert [cell.best_baseline for cell in report.cells()] == ["harmonic", "harmonic"]
    assert report.cells()[0].interval == REPORT.cells()[0].interval
    assert "First completion: what the model's network corrects." in report.markdown()
    assert "First completion" not in REPORT.markdown()


def test_baselines_alone_have_no_ratio():
    rows = []
    for number, row in enumerate(REPORT.rows, start=1):
        errors = {"nearest": 0.2, "harmonic": 0.01 * number}
        rows.append(row._replace(rmse=errors, unblurred_rmse=errors))
    report = ProtocolReport(rows, REPORT.setup | {"model": None}, [])
    text = report.markdown()
    assert "baselines alone" in text
    assert "atio" not in text
    assert (report.cells()[0].ratio, report.cells()[0].share_better) == (None, None)
    # The worst is where the best baseline errs most.
    assert [w.row.image for w in report.worst(2)] == ["a", "c"]


def test_json_has_everything_but_paths_of_this_machine():
    values = json.loads(REPORT.to_json())
    assert set(values) == {"setup", "cells", "rows", "left_out"}
    assert values["cells"][0]["interval"] == pytest.approx({"low": 0.6, "high": 1.2})
    assert values["rows"][2]["field"] == "two"
    assert "/data" not in REPORT.to_json()
    assert not math.isnan(values["cells"][1]["ratio"])
