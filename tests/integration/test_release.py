"""How the released model comes about: its store, its training in slices, its report; the ablation
of its recipe.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stem_complete.config import load_config, validate_config
from stem_complete.data.bundled import example_micrographs, published_triples
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ArtifactError, DataError
from stem_complete.evaluation import (
    PROTOCOL,
    Report,
    Row,
    baseline_methods,
    by_condition,
    ground_truth,
)
from stem_complete.experiments import ablation, tune_baselines
from stem_complete.experiments.release import report, store, training, warm_start
from stem_complete.inference import RELEASED_MODEL, load_completer, read_card
from stem_complete.inference.card import WEIGHTS_FILE
from stem_complete.models import fold_norms
from stem_complete.training import Checkpoints, build_task

SMALL = {
    "model": {
        "sizes": {
            "inner_widths": [8, 8],
            "inner_blocks": 1,
            "outer_widths": [8, 8],
            "outer_blocks": 1,
            "spectral_blocks": 1,
        }
    },
    "augmentation": {"crop_px": 32, "coverages": ["1/4"], "geometries": ["random"]},
    "training": {
        "batch_size": 2,
        "precision": "float32",
        "checkpoint_every_steps": 1000,
        "validate_every_steps": 1000,
    },
}
CHANGES = [
    f"{section}.{key}={json.dumps(value)}"
    for section, values in SMALL.items()
    for key, value in values.items()
]


@pytest.fixture(autouse=True)
def _threads_as_they_were(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # of this process


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A place of its own for what is published."""
    monkeypatch.setattr(training, "REST", tmp_path / "rest.safetensors")
    monkeypatch.setattr(training, "NEXT", tmp_path / "next")
    monkeypatch.setattr(training, "RELEASED_MODEL", tmp_path / "released")
    return tmp_path


def test_slices_go_on_from_each_other(package, small_store):
    def train(output):
        arguments = ["--store", small_store, "--output", package / output, "--minutes", 1e-9]
        training.main([*map(str, arguments), *CHANGES])
        return Checkpoints(package / output / "any-scan").latest()

    first = train("one")
    assert first.step >= 1
    training.main(["--keep", str(package / "one")])
    load_completer(package / "next")
    assert str(package) not in (package / "next" / "model.json").read_text()

    # Another machine has only what was kept.
    other = train("two")
    assert other.step > first.step
    assert {other.step - first.step} == {
        int(value) for name, value in other.state["optimizer"].items() if name.endswith(".step")
    }
    # The same machine goes on with the run that it has.
    last = train("two")
    assert last.step > other.step

    training.main(["--publish", str(package / "two")])
    assert load_completer(package / "released").card.metrics["train/steps"] == last.step
    assert not (package / "next").exists()
    assert train("three").step > last.step


def test_nothing_is_published_that_is_not_there(package):
    with pytest.raises(ArtifactError, match="train first"):
        training.main(["--publish", str(package)])
    assert not (package / "released").exists()


def test_the_released_generator_is_that_which_further_training_begins_with():
    config = validate_config(read_card(RELEASED_MODEL).config, where="card")
    folded = load_file(RELEASED_MODEL / WEIGHTS_FILE)
    task = build_task(config, (256, 256))
    task.load_state_dict(warm_start.start_state(task, folded, load_file(training.REST)))
    for name, value in fold_norms(task.network).generator.state_dict().items():
        torch.testing.assert_close(value, folded[name], rtol=0, atol=1e-6)


def test_the_store_holds_out_whole_sources_and_unclear_licences(tmp_path):
    files = [file for file in example_micrographs() if file.name.startswith("ardagen_ru")]
    names = ["ardagen_1.tif", "alibag_1.tif", "scilink_1.tif", "rem_1.tif"]
    rows = "".join(f"| {name} | r | p | MIT | w |\n" for name in names)
    heading = "| file | repository | path | licence | what it shows |\n"
    (tmp_path / "SOURCES.md").write_text(heading + rows)
    for name, file in zip(names, files, strict=True):
        shutil.copy(file, tmp_path / name)
    store.main([str(tmp_path), "--store", str(tmp_path / "released.zarr")])
    sources = MicrographStore(tmp_path / "released.zarr").sources()
    found = {Path(source.path).name: source for source in sources}
    assert {name: source.split for name, source in found.items()} == {
        "ardagen_1.tif": "train",
        "scilink_1.tif": "validation",
        "rem_1.tif": "validation",
    }
    assert found["ardagen_1.tif"].licence == "MIT"

    shutil.copy(files[0], tmp_path / "new_1.tif")
    with pytest.raises(DataError, match=r"none for new_1\.tif"):
        store.main([str(tmp_path), "--store", str(tmp_path / "other.zarr")])
    assert not (tmp_path / "other.zarr").exists()


def test_every_arm_is_a_config():
    assert load_config(["any_dose", ablation.ARMS]).sweep.arms["base"] == {}


def test_arms_are_compared_and_those_done_are_kept(small_store, tmp_path, monkeypatch, capsys):
    conditions = [c for c in PROTOCOL if c.labels[1:] == ("1/10", "none")]
    monkeypatch.setattr(ablation, "PROTOCOL", conditions)
    overrides = [f"data.store={small_store}", "training.max_minutes=0.03"]
    overrides.append(f"sweep.arms={json.dumps({'small': SMALL})}")
    config = load_config(["any_dose", ablation.ARMS], overrides)
    config = ablation._only(config, ["small"])
    ablation.ablate(config, tmp_path)
    found = json.loads((tmp_path / "small-seed0.json").read_text())
    assert found["steps"] >= 1
    assert found["rmse_percent"].keys() == {"archimedean 1/10 none", "drawn 1/10 none"}
    ablation.ablate(config, tmp_path)
    assert json.loads((tmp_path / "small-seed0.json").read_text()) == found

    common = ["--store", str(small_store), "--output", str(tmp_path)]
    ablation.main([*common, "--baselines"])
    ablation.main([*common, "--model", str(RELEASED_MODEL)])
    capsys.readouterr()
    ablation.main(["--output", str(tmp_path), "--table"])
    table = capsys.readouterr().out
    assert re.search(r"\| small +\|.* 1 \|", table)
    for name in ("harmonic", "stem_complete-released", "first-waves"):
        assert f"| {name}" in table


def test_a_baseline_is_tuned_along_its_grid(small_store, monkeypatch, capsys):
    conditions = [c for c in PROTOCOL if c.labels == ("archimedean", "1/10", "none")]
    monkeypatch.setattr(tune_baselines, "PROTOCOL", conditions)
    grid = {"sigma_pitches": (0.15, 0.2, 0.25), "dwell_exponent": (0, 1)}
    monkeypatch.setattr(tune_baselines, "GRIDS", {"normalised_convolution": grid})
    monkeypatch.setattr(tune_baselines, "_today", lambda *_: (0.15, 0))
    tune_baselines.main(["normalised_convolution", "--noise=none", "--store", str(small_store)])
    assert re.search(r"normalised_convolution \| +none \| sigma_pitches", capsys.readouterr().out)


def protocol_report(folder: Path, error: float) -> None:
    """What the protocol might have found for the released model."""
    rmse = {"nearest": 0.2, "spline": 0.05, "model": error}
    rows = [
        Row(image, image, geometry, "1/20", noise, method, error, 20, 0.5, error, None, 0.1)
        for geometry in ("archimedean", "drawn")
        for noise in ("none", "reference")
        for image in ("a", "b")
        for method, error in rmse.items()
    ]
    setup = {
        "model": "ours",
        "model_sha256": read_card(RELEASED_MODEL).weights_sha256,
        "data_sha256": "2e",
        "max_images_per_field": 4,
        "conditions": [{"blur_sigma_px": 2.5}],
        "seed": 0,
        "versions": {"numpy": "2"},
    }
    found = Report(rows, setup, left_out=[], baselines=("nearest", "spline"))
    folder.mkdir(parents=True)
    (folder / "protocol.json").write_text(found.to_json())
    (folder / "protocol.md").write_text(by_condition(found))
    Image.new("RGB", (2400, 400)).save(folder / "worst.png")


def test_reports_take_the_place_of_earlier_ones(tmp_path, monkeypatch):
    card, readme = tmp_path / "README.md", tmp_path / "project.md"
    monkeypatch.setattr(report, "RELEASED_MODEL", tmp_path)
    monkeypatch.setattr(report, "EXAMPLES", report.EXAMPLES[:1])
    monkeypatch.setattr(report, "CARD", card)
    monkeypatch.setattr(report, "README", readme)
    card.write_text(
        "# Card\n<!-- unseen -->\nearlier\n<!-- /unseen -->\ntext\n"
        "<!-- held_out -->\nearlier\n<!-- /held_out -->\nend\n"
    )
    readme.write_text("# Project\n<!-- unseen -->\nearlier\n<!-- /unseen -->\nend\n")
    reports = tmp_path / "reports"
    protocol_report(reports / "unseen", 0.04)
    protocol_report(reports / "held_out", 0.03)
    methods = baseline_methods(["nearest", "spline"])
    monkeypatch.setattr(report, "baseline_methods", lambda: methods)
    monkeypatch.setattr(ground_truth, "published_triples", lambda: published_triples()[:1])
    report.main([str(tmp_path / "none"), "--output", str(reports)])
    written = card.read_text()
    assert "earlier" not in written
    assert written.index("| drawn       |     1/20 |") < written.index("text\n")
    assert "0.800 [0.800, 0.800]" in written.split("text\n")[0]
    assert "0.600 [0.600, 0.600]" in written.split("text\n")[1]
    assert written.startswith("# Card\n<!-- unseen -->\n\n* model: ours, weights")
    assert written.endswith("|\n\n<!-- /held_out -->\nend\n")
    assert "5.00 |" in readme.read_text()
    assert readme.read_text().count("1/20") == 1
    for name in ("worst", "examples"):
        with Image.open(tmp_path / f"{name}.jpg") as picture:
            assert picture.width == 1200
    assert "spline" in (reports / "published.txt").read_text()


def test_a_page_without_a_place_for_the_table_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- unseen -->\n")
    with pytest.raises(DataError, match=r"page\.md: expected <!-- unseen --> and"):
        report.replaced(page, {"unseen": "table"})
