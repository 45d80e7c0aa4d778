from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from stem_complete.cli import app
from stem_complete.config import DetectorNoiseConfig
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError, DataError
from stem_complete.evaluation import (
    PROTOCOL,
    PROTOCOL_BASELINES,
    Condition,
    chosen,
    evaluate_protocol,
    load_micrographs,
    protocol,
    simulate,
    work,
)
from stem_complete.evaluation.tuned import DENOISERS
from stem_complete.inference import Completer, build_artifact, load_completer, save_artifact
from stem_complete.inference.export import training_sources
from stem_complete.scan import GEOMETRIES

SOME = chosen(["archimedean 1/20 *", "random 1/5 dose 20"])
FEW = chosen(["archimedean 1/20 none", "archimedean 1/20 published"])
MAX_PER_FIELD = 2


@pytest.fixture(scope="module", autouse=True)
def _few_images():
    """Half as many of a field of view as the protocol takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "MAX_PER_FIELD", MAX_PER_FIELD)
        yield


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("protocol")


@pytest.fixture(scope="module")
def report(small_store, completer, output):
    return evaluate_protocol(small_store, completer, conditions=SOME, output=output)


def test_the_protocol_has_these_cells():
    labels = [" ".join(condition.labels) for condition in PROTOCOL]
    assert len(labels) == len(set(labels)) == 212
    assert labels[:2] == ["archimedean 1/2 none", "archimedean 1/5 none"]
    assert {condition.geometry for condition in PROTOCOL} < set(GEOMETRIES)
    noises = {condition.labels[2] for condition in PROTOCOL}
    assert noises == {"none", "dose 1000", "dose 100", "dose 20", "published"}
    published = {c.geometry for c in PROTOCOL if c.labels[2] == "published"}
    assert published == {"archimedean", "drawn"}
    assert {c.labels[1] for c in PROTOCOL if c.geometry == "sparse_rows"} == {
        *("1/2", "1/5", "1/10", "1/20")
    }


def test_parts_are_chosen_by_patterns():
    assert [c.labels[2] for c in SOME] == [
        *("none", "dose 1000", "dose 100", "dose 20", "published", "dose 20")
    ]
    assert chosen([]) == PROTOCOL
    with pytest.raises(ConfigError, match=r"dose 100', found 'archimedean 1/3 \*'"):
        chosen(["archimedean 1/20 *", "archimedean 1/3 *"])


def test_every_method_sees_every_scan_that_suits_it(small_store, report):
    assert len(MicrographStore(small_store).indices("test")) > MAX_PER_FIELD
    assert len({row.field for row in report.rows}) == 1
    found = report.cells()
    assert [cell[:3] for cell in found] == [condition.labels for condition in SOME]
    for cell in found:
        assert cell.num_images == MAX_PER_FIELD
        dense = cell.geometry == "random"
        suiting = [name for name in PROTOCOL_BASELINES if dense or name not in DENOISERS]
        assert list(cell.methods) == [*suiting, "model"]
        assert all(summary.rmse.mean > 0 for summary in cell.methods.values())
        assert cell.best_baseline in suiting
        assert cell.ratio
        assert cell.calibration


def test_a_first_completion_is_shown_beside_the_model(tmp_path, texture):
    np.save(tmp_path / "one.npy", texture(0, (128, 128)))
    ingest([tmp_path / "one.npy"], tmp_path / "s.zarr", crop_size=128)
    completer = load_completer()
    (cell,) = evaluate_protocol(
        tmp_path / "s.zarr", completer, conditions=FEW[:1], split="train"
    ).cells()
    # Of the encoding `adaptive`, it is the adaptive spline.
    shown = "first_completion" in cell.methods
    assert shown == (completer.card.encoding != "adaptive")
    first = cell.methods["first_completion" if shown else "adaptive_spline"]
    assert 0 < first.rmse.mean < cell.methods["nearest"].rmse.mean


def test_numbers_reproduce_bit_for_bit(small_store, completer, report):
    calls = []
    again = evaluate_protocol(
        small_store, completer, conditions=FEW, progress=lambda *call: calls.append(call)
    )
    timeless = [row._replace(seconds=0) for row in again.rows]
    assert timeless == [
        row._replace(seconds=0)
        for row in report.rows
        if (row.geometry, row.noise) in {("archimedean", "none"), ("archimedean", "published")}
    ]
    assert again.setup["data_sha256"] == report.setup["data_sha256"]
    assert calls[-1] == (2 * len(again.setup["images"]),) * 2 + ("archimedean 1/20 published", 0)
    assert calls[0][3] > 0


@pytest.fixture
def _no_pictures(monkeypatch):
    monkeypatch.setattr(protocol, "save_png", lambda *_: None)


@pytest.mark.usefixtures("_no_pictures")
def test_parts_are_kept_and_merged(small_store, model_folder, tmp_path, monkeypatch):
    evaluated = []

    def scores(scan, *others):
        evaluated.append(scan.noise)
        return original(scan, *others)

    original = work.scores
    monkeypatch.setattr(work, "scores", scores)

    completer = load_completer(model_folder, "cpu")

    def run(number, completer=completer, **options):
        evaluated.clear()
        return evaluate_protocol(
            small_store,
            completer,
            conditions=FEW[:number],
            max_images=1,
            output=tmp_path,
            **options,
        )

    first = run(1)
    assert evaluated == ["none"]
    both = run(2)
    assert evaluated == ["published"]
    assert [row for row in both.rows if row.noise == "none"] == first.rows
    # What was found before is of the report of a part too.
    assert run(1).rows == both.rows
    assert evaluated == []
    written = json.loads((tmp_path / "protocol.json").read_text())
    assert len(written["cells"]) == 2
    # More baselines are kept, other weights are not.
    assert {row.method for row in run(1, more_baselines=["linear"]).rows} > {"linear"}
    assert evaluated == ["none"]
    run(2)
    assert evaluated == []
    run(1, completer=None)
    assert evaluated == []
    manifest = tmp_path / ".stem-complete" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes().splitlines(keepends=True)[0][:-9])  # a power cut
    assert run(2).rows[0]._replace(seconds=0) == both.rows[0]._replace(seconds=0)
    assert evaluated == ["none", "published"]


@pytest.mark.usefixtures("_no_pictures")
def test_cells_of_other_weights_or_data_are_done_again(
    small_store, model_folder, completer, artifact, tmp_path
):
    def times(completer, max_images=1):
        report = evaluate_protocol(
            small_store, completer, conditions=FEW[:1], output=tmp_path, max_images=max_images
        )
        return [row.seconds for row in report.rows if row.method == "model"]

    saved = load_completer(model_folder, "cpu")
    first = times(saved)
    assert times(saved) == first
    assert times(saved, max_images=2)[:1] == first, "the other crop alone is new"
    second = times(saved)
    weights = copy.deepcopy(artifact.network)
    with torch.no_grad():
        next(weights.parameters()).mul_(1.1)
    other = save_artifact(tmp_path / "other", artifact._replace(network=weights))
    assert times(load_completer(other, "cpu")) != second
    assert times(completer) != times(completer), "one that was never saved has no hash"


def test_random_paths_differ_by_image_and_not_by_what_else_there_is(small_store):
    condition = Condition("random", 1 / 10, DetectorNoiseConfig(dose_electrons_per_px=None))
    crops = load_micrographs(small_store, max_images=3).crops
    maps = [scan.partial.dwell for scan in simulate(crops, condition)]
    assert (maps[0] != maps[1]).any()
    (alone,) = simulate(crops[1:2], condition)
    np.testing.assert_array_equal(alone.partial.dwell, maps[1])
    (other,) = simulate(crops[1:2], condition, seed=1)
    assert (other.partial.dwell != maps[1]).any()


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
    (once,) = simulate(alone, FEW[1])
    *_, last = simulate(crops, FEW[1])
    np.testing.assert_array_equal(once.partial.intensity, last.partial.intensity)


def test_files_are_of_the_fields_of_view_that_they_are_of_in_a_store(
    tmp_path, texture, small_store
):
    for number, name in enumerate(["gold_HAADF_1", "gold_BF_1", "gold_2", "iron"]):
        np.save(tmp_path / f"{name}.npy", texture(number, (512, 512)))
    np.save(tmp_path / "copy of iron.npy", 2 * texture(3, (512, 512)))
    crops, left_out, *_ = load_micrographs(tmp_path)
    assert [Path(crop.field).name for crop in crops] == ["copy of iron", *["gold"] * 3]
    assert left_out == ["iron at 0, 0: the same pixels as copy of iron at 0, 0"]
    ingest([tmp_path], tmp_path / "s.zarr")
    groups = {source.group for source in MicrographStore(tmp_path / "s.zarr").sources()}
    assert {crop.field for crop in crops} <= groups
    apart = load_micrographs(tmp_path, group_pattern="(.*)").crops
    assert len({crop.field for crop in apart}) == len(apart) == 4
    with pytest.raises(ConfigError, match="whose groups match in the path of some file"):
        load_micrographs(tmp_path, group_pattern="(silver)")
    with pytest.raises(ConfigError, match="as a store knows its own"):
        load_micrographs(small_store, group_pattern="(.*)")


def test_training_files_are_left_out(small_store, network, config):
    sources = training_sources(MicrographStore(small_store))
    trained = Completer(build_artifact(network, config=config, training_data=sources), "cpu")
    with pytest.raises(DataError, match="not trained on"):
        evaluate_protocol(small_store, trained, split="train")


def test_report_and_pictures_are_written(report, output):
    assert json.loads((output / "protocol.json").read_text()) == json.loads(report.to_json())
    table = (output / "protocol.md").read_text()
    assert "| archimedean |" in table
    assert "| random      |" in table
    assert len((output / "protocol.csv").read_text().splitlines()) == 1 + len(SOME)
    assert imread(output / "ratios.png").shape[1] > 1000
    assert imread(output / "worst.png").shape[0] > 1000


def test_the_command_evaluates_baselines_alone(small_store, tmp_path):
    options = ["--protocol", "--only", "archimedean 1/20 none", "--only", "random 1/5 none"]
    options += ["--data", str(small_store), "--num-images", "1", "--output", str(tmp_path)]
    done = CliRunner().invoke(app, ["evaluate", *options])
    assert done.exit_code == 0, done.output
    assert "baselines alone" in done.stdout
    assert "2 conditions of 212" in done.stderr
    assert not (tmp_path / "ratios.png").exists()
    done = CliRunner().invoke(app, ["evaluate", *options, "--json"])
    assert done.stdout == (tmp_path / "protocol.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--output", __file__], "a folder, found a file", id="output"),
        pytest.param(["--seed", "1", "--noise", "none"], "--noise and --seed", id="fixed"),
        pytest.param(["--only", "nothing"], "a pattern of conditions", id="only"),
        pytest.param(["--equal-dose"], "found both", id="two"),
    ],
)
def test_wrong_use_is_refused(options, message, small_store):
    arguments = ["evaluate", "--protocol", "--data", str(small_store), *options]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
