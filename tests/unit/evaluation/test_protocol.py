from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib.image import imread
from typer.testing import CliRunner

from stem_complete.cli import app
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError, DataError
from stem_complete.evaluation import (
    PROTOCOL,
    PROTOCOL_BASELINES,
    evaluate_protocol,
    load_micrographs,
    simulate,
)
from stem_complete.inference import Completer, build_artifact, load_completer
from stem_complete.inference.export import training_sources

SOME = PROTOCOL[2:4]  # archimedean 1/17.9, both noises
NUM_IMAGES = 2
"""Of a field of view, so that the whole protocol is quick."""


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("protocol")


@pytest.fixture(scope="module", autouse=True)
def _few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stem_complete.evaluation.protocol.MAX_PER_FIELD", NUM_IMAGES)
        yield


@pytest.fixture(scope="module")
def report(small_store, completer, output):
    return evaluate_protocol(small_store, completer, output=output)


def test_every_method_sees_every_scan(small_store, report):
    assert len(MicrographStore(small_store).indices("test")) > NUM_IMAGES
    assert len({row.field for row in report.rows}) == 1
    cells = report.cells()
    assert len(cells) == len(PROTOCOL) == 20
    assert [cell[:3] for cell in cells] == [condition.labels for condition in PROTOCOL]
    assert [cell[:3] for cell in cells][:3] == [
        ("archimedean", "1/10", "none"),
        ("archimedean", "1/10", "reference"),
        ("archimedean", "1/17.9", "none"),
    ]
    for cell in cells:
        assert cell.num_images == NUM_IMAGES
        assert list(cell.methods) == [*PROTOCOL_BASELINES, "model"]
        assert all(summary.rmse.mean > 0 for summary in cell.methods.values())


def test_a_first_completion_is_shown_beside_the_model(tmp_path, texture):
    np.save(tmp_path / "one.npy", texture(0, (128, 128)))
    ingest([tmp_path / "one.npy"], tmp_path / "s.zarr", crop_size=128)
    (cell,) = evaluate_protocol(
        tmp_path / "s.zarr", load_completer(), conditions=SOME[:1], split="train"
    ).cells()
    assert list(cell.methods) == [*PROTOCOL_BASELINES, "first_completion", "model"]
    errors = {name: summary.rmse.mean for name, summary in cell.methods.items()}
    assert 0 < errors["first_completion"] < errors["nearest"]


def test_numbers_reproduce_bit_for_bit(small_store, completer, report):
    calls = []
    again = evaluate_protocol(
        small_store, completer, conditions=SOME, progress=lambda *call: calls.append(call)
    )
    timeless = [row._replace(seconds=0) for row in again.rows]
    assert timeless == [
        row._replace(seconds=0)
        for row in report.rows
        if (row.geometry, row.coverage) == ("archimedean", "1/17.9")
    ]
    assert again.setup["data_sha256"] == report.setup["data_sha256"]
    assert calls[-1] == (2 * len(again.setup["images"]),) * 2


def test_hashes_tell_what_was_evaluated(completer, report, tmp_path, texture):
    assert report.setup["model_sha256"] == completer.card.weights_sha256
    assert report.setup["versions"].keys() >= {"stem_complete", "torch", "numpy"}

    image = texture(0, (512, 512)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image)
    first = load_micrographs(tmp_path).sha256()
    assert load_micrographs(tmp_path).sha256() == first
    image[100, 100] += 0.01
    tifffile.imwrite(tmp_path / "a.tif", image)
    assert load_micrographs(tmp_path).sha256() != first
    assert report.setup["data_sha256"] != first


def test_no_field_of_view_dominates_and_names_do_not_repeat(tmp_path, texture):
    np.save(tmp_path / "large.npy", texture(0, (1024, 1536)))
    np.save(tmp_path / "small_c1.npy", texture(1, (512, 512)))
    np.save(tmp_path / "small_c2.npy", texture(2, (512, 512)))
    crops, left_out, *_ = load_micrographs(tmp_path, max_per_field=4)
    assert [crop.name.split()[0] for crop in crops] == ["large"] * 4 + ["small_c1", "small_c2"]
    assert len({crop.name for crop in crops}) == 6
    assert len({crop.field for crop in crops}) == 2
    assert not left_out
    # The noise of a crop is its own, whatever else there is.
    alone = load_micrographs(tmp_path / "small_c2.npy").crops
    (once,) = simulate(alone, SOME[1])
    *_, last = simulate(crops, SOME[1])
    np.testing.assert_array_equal(once.partial.intensity, last.partial.intensity)


def test_training_files_are_left_out(small_store, network, config):
    sources = training_sources(MicrographStore(small_store))
    trained = Completer(build_artifact(network, config=config, training_data=sources), "cpu")
    with pytest.raises(DataError, match="not trained on"):
        evaluate_protocol(small_store, trained, split="train")


def test_report_and_pictures_are_written(report, output):
    assert json.loads((output / "protocol.json").read_text()) == json.loads(report.to_json())
    table = (output / "protocol.md").read_text()
    assert "| archimedean |" in table
    assert "| drawn       |" in table
    assert imread(output / "worst.png").shape[0] > 1000


def test_the_command_evaluates_baselines_alone(small_store, tmp_path, monkeypatch):
    evaluated = evaluate_protocol(small_store, conditions=SOME[:1], output=tmp_path)

    def evaluate(data: list[str], completer: None, *, output: Path, **_: object) -> object:
        assert (data, completer, output) == ([str(small_store)], None, tmp_path)
        return evaluated

    monkeypatch.setattr("stem_complete.evaluation.evaluate_protocol", evaluate)
    options = ["--protocol", "--data", str(small_store), "--output", str(tmp_path)]
    done = CliRunner().invoke(app, ["evaluate", *options])
    assert done.exit_code == 0, done.output
    assert "baselines alone" in done.stdout
    done = CliRunner().invoke(app, ["evaluate", *options, "--json"])
    assert done.stdout == (tmp_path / "protocol.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--output", __file__], "a folder, found a file", id="output"),
        pytest.param(["--seed", "1", "--noise", "none"], "--noise and --seed", id="fixed"),
    ],
)
def test_wrong_use_is_refused(options, message, small_store):
    arguments = ["evaluate", "--protocol", "--data", str(small_store), *options]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
