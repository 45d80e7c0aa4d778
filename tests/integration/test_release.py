"""How the released model comes about: its store, its training in slices, its report; the ablation
of its recipe.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from stem_complete import evaluation
from stem_complete.config import load_config, validate_config
from stem_complete.data.bundled import example_micrographs, published_triples
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ArtifactError, DataError
from stem_complete.evaluation import (
    Report,
    Row,
    baseline_methods,
    chosen,
    known_scans,
)
from stem_complete.experiments import ablation, tune_baselines
from stem_complete.experiments.release import report, store, training, warm_start
from stem_complete.inference import RELEASED_MODEL, load_completer, read_card
from stem_complete.models import fold_norms
from stem_complete.training import Checkpoints, build_task
from stem_complete.vocabulary import WEIGHTS_FILE

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
    # One kind of noise: each is calibrated by scans of its own.
    "augmentation": {"crop_px": 32, "coverages": ["1/4"], "geometries": ["random"], "noises": []},
    "training": {
        "batch_size": 2,
        "precision": "float32",
        "checkpoint_every_steps": 1000,
        "validate_every_steps": 1000,
        "calibration_scans": 2,
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


MODELS = {RELEASED_MODEL: training.REST}
if training.NEXT.exists():
    MODELS[training.NEXT] = training.NEXT / training.REST.name


@pytest.mark.parametrize(("model", "rest"), MODELS.items(), ids=lambda path: path.name)
def test_a_generator_is_that_which_further_training_begins_with(model, rest):
    config = validate_config(read_card(model).config, where="card")
    folded = load_file(model / WEIGHTS_FILE)
    assert (model / WEIGHTS_FILE).stat().st_size <= training.MAX_MIB * 2**20
    task = build_task(config, (256, 256))
    task.load_state_dict(warm_start.start_state(task, folded, load_file(rest)))
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

    more = tmp_path / "more"
    more.mkdir()
    (more / "SOURCES.md").write_text(f"{heading}| sem_1.tif | r | p | CC0 | w |\n")
    shutil.copy(next(f for f in example_micrographs() if "qem" in f.name), more / "sem_1.tif")
    folders = [str(tmp_path / "first"), str(more)]
    (tmp_path / "first").mkdir()
    for name in ("SOURCES.md", *names):
        shutil.move(tmp_path / name, tmp_path / "first" / name)
    store.main([*folders, "--store", str(tmp_path / "both.zarr")])
    splits = {Path(s.path).name: s.split for s in MicrographStore(tmp_path / "both.zarr").sources()}
    assert splits["sem_1.tif"] == splits["ardagen_1.tif"] == "train"

    shutil.copy(files[0], more / "new_1.tif")
    with pytest.raises(DataError, match=r"none for new_1\.tif"):
        store.main([*folders, "--store", str(tmp_path / "other.zarr")])
    assert not (tmp_path / "other.zarr").exists()


def test_every_arm_is_a_config():
    assert load_config(["any_dose", ablation.ARMS]).sweep.arms["base"] == {}


def test_arms_are_compared_and_those_done_are_kept(small_store, tmp_path, monkeypatch, capsys):
    conditions = chosen(["archimedean 1/10 none", "random 1/10 dose 100"])
    monkeypatch.setattr(ablation, "CONDITIONS", conditions)
    overrides = [f"data.store={small_store}", "training.max_minutes=0.03"]
    overrides += [f"sweep.arms={json.dumps({'small': SMALL})}", "sweep.only=[small]"]
    config = load_config(["any_dose", ablation.ARMS], overrides)
    ablation.ablate(config, tmp_path)
    found = json.loads((tmp_path / "small-seed0.json").read_text())
    assert found["steps"] >= 1
    assert found["rmse_percent"].keys() == {"archimedean 1/10 none", "random 1/10 dose 100"}
    ablation.ablate(config, tmp_path)
    assert json.loads((tmp_path / "small-seed0.json").read_text()) == found

    common = ["--store", str(small_store), "--output", str(tmp_path)]
    ablation.main([*common, "--baselines"])
    ablation.main([*common, "--model", str(RELEASED_MODEL)])
    capsys.readouterr()
    ablation.main(["--output", str(tmp_path), "--table"])
    table = capsys.readouterr().out
    assert re.search(r"\| small +\|.* 1 \|", table)
    for name in ("spline", "stem_complete-released", "first-waves"):
        assert f"| {name}" in table


def test_baselines_are_tuned_along_their_grids(tmp_path, small_store, monkeypatch):
    grid = {"sigma_pitches": (0.1, 0.2, 0.4), "dwell_exponent": (0, 1)}
    monkeypatch.setitem(tune_baselines.GRIDS, "normalised_convolution", grid)
    monkeypatch.setitem(tune_baselines.STARTS, "normalised_convolution", ((0.1, 1),))
    output = tmp_path / "tuned.yaml"

    def tune(only, *options):
        common = ["normalised_convolution", "--store", str(small_store), "--output", str(output)]
        tune_baselines.main([*common, "--only", only, *options])
        return yaml.safe_load(output.read_text())["normalised_convolution"]["curves"]

    first = tune("curves 1/10 dose *")
    assert set(first) >= {"dose 1000", "dose 100", "dose 20"}
    assert all(value["sigma_pitches"] in (0.2, 0.4) for value in first["dose 20"].values())
    # Others are kept, and those that are there if so told.
    monkeypatch.setattr(tune_baselines, "tuned", lambda *_: ((0.1, 0), 1.0))
    both = tune("curves 1/[12]0 dose 100", "--keep")
    assert both["dose 100"]["1/10"] == first["dose 100"]["1/10"]
    assert both["dose 100"]["1/20"] == {"sigma_pitches": 0.1, "dwell_exponent": 0}
    assert both["dose 20"] == first["dose 20"]


def protocol_report(ratio: float) -> Report:
    """What the protocol might have found for the released model."""
    rmse = {"nearest": 0.2, "spline": 0.05, "model": 0.05 * ratio}
    rows = [
        Row(image, image, geometry, coverage, noise, method, error, 20, 0.5, error, None, 0.1)
        for geometry, noise in (
            ("archimedean", "none"),
            ("archimedean", "published"),
            ("random", "dose 100"),
            ("random", "dose 20"),
        )
        for coverage in ("1/5", "1/20")
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
    return Report(rows, setup, left_out=[], baselines=("nearest", "spline"))


def equal_dose_report() -> Report:
    """What the comparison at equal dose might have found."""
    arms = {("serpentine_raster", "1/1", "dose 10"): 0.04, ("archimedean", "1/2", "dose 20"): 0.03}
    rows = [
        Row(image, image, *labels, "model", error, 20, 0.5, error, None, 0.1)
        for labels, error in arms.items()
        for image in ("a", "b")
    ]
    return Report(rows, protocol_report(1.0).setup, left_out=[], baselines=())


def test_reports_take_the_place_of_earlier_ones(tmp_path, monkeypatch):
    released, readme, output = tmp_path / "released", tmp_path / "project.md", tmp_path / "reports"
    card = released / "README.md"
    monkeypatch.setattr(report, "RELEASED_MODEL", released)
    monkeypatch.setattr(report, "EXAMPLES", report.EXAMPLES[:1])
    monkeypatch.setattr(report, "CARD", card)
    monkeypatch.setattr(report, "README", readme)
    released.mkdir()
    names = ("unseen", "equal_dose", "held_out")
    places = [f"<!-- {name} -->\nearlier\n<!-- /{name} -->\n" for name in names]
    card.write_text("# Card\n" + "text\n".join(places) + "end\n")
    readme.write_text("# Project\n" + places[0] + "end\n")
    for part in ("unseen/ratios.png", "equal_dose/equal_dose.png", "held_out/worst.png"):
        (output / part).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2400, 400)).save(output / part)
    (output / "unseen" / "protocol.csv").write_text("geometry\n")
    report.update_pages({"held_out": protocol_report(0.6)}, output)
    assert card.read_text().count("earlier") == 2
    assert "earlier" in readme.read_text()
    reports = {"unseen": protocol_report(0.8), "equal_dose": equal_dose_report()}
    report.update_pages(reports, output)
    unseen, equal_dose, held_out = card.read_text().split("text\n")
    assert "earlier" not in card.read_text()
    assert "| random      |   dose 20 | 0.80 | 0.80 |" in unseen
    assert "0.800 [0.80, 0.80]" not in unseen, "every cell is in the CSV file"
    assert "0.600 [0.60, 0.60]" in held_out
    assert "| best sparse / best raster | 0.75 [0.75, 0.75] |" in equal_dose
    assert unseen.startswith("# Card\n<!-- unseen -->\n\n* model: ours, weights")
    assert held_out.endswith("|\n\n<!-- /held_out -->\nend\n")
    lines = [line for line in readme.read_text().splitlines() if line.startswith("|")]
    assert [line.count("4.0 (0.80, 0.80)") for line in lines[2:]] == [2, 2, 2]
    for name in ("worst", "ratios", "equal_dose", "examples"):
        with Image.open(released / f"{name}.jpg") as picture:
            assert picture.width == 1200
    assert (released / "protocol.csv").exists()


def test_the_released_model_is_evaluated_in_parts(small_store, tmp_path, monkeypatch):
    some = chosen(["archimedean 1/20 none"])
    monkeypatch.setattr(report, "PROTOCOL", some)
    monkeypatch.setattr(report, "chosen", lambda _: some)
    monkeypatch.setattr(report, "baseline_methods", lambda: baseline_methods(["nearest"]))
    monkeypatch.setattr(known_scans, "published_triples", lambda: published_triples()[:1])
    monkeypatch.setattr(report, "example_micrographs", list)
    budgets = evaluation.compare_at_equal_dose.__kwdefaults__ | {"budgets": (10.0,)}
    monkeypatch.setattr(evaluation.compare_at_equal_dose, "__kwdefaults__", budgets)
    crops = evaluation.load_micrographs(small_store, max_images=1)
    for module in (evaluation.protocol, evaluation.equal_dose):
        monkeypatch.setattr(module, "load_micrographs", lambda *_, **__: crops)
    first = report.evaluate_released(["none"], tmp_path)
    assert [cell.ratio is not None for cell in first["unseen"].cells()] == [True]
    assert (tmp_path / "equal_dose" / "equal_dose.md").exists()
    assert "nearest" in (tmp_path / "published.txt").read_text()
    again = report.evaluate_released(["none"], tmp_path, parts=["unseen"])
    assert list(again) == ["unseen"]
    assert again["unseen"].rows == first["unseen"].rows
