"""Scripts of the released model: its store, its training in slices, ablations of its recipe."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from PIL import Image

from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.store import MicrographStore
from stem_complete.evaluation import Report, Row, by_condition
from stem_complete.inference import RELEASED_MODEL, load_completer, read_card
from stem_complete.training import Checkpoints

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = [
    "model.preset=compact",
    "model.sizes.gates=1",
    "augmentation.crop_px=32",
    "training.batch_size=2",
    "training.precision=float32",
    "training.checkpoint_every_steps=1000",
    "training.log_every_steps=1",
]
SMALL_VALUES = {key: yaml.safe_load(value) for key, value in (line.split("=") for line in SMALL)}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`train_released`, with a repository of its own to publish to."""
    module = load("train_released")
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(module, "RELEASED_MODEL", tmp_path / "released")
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_slices_go_on_from_each_other(
    script: ModuleType, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--store", small_store, "--minutes", 0.03)
    run(script, monkeypatch, *common, "--output", tmp_path / "one", *SMALL)
    first = Checkpoints(tmp_path / "one" / "checkpoint").latest()
    assert first is not None
    assert first.step >= 1
    assert first.step == steps(tmp_path / "one" / "any-dose")[-1]
    moments = {n: v.dtype for n, v in first.state["optimizer"].items() if n.endswith("exp_avg")}
    assert set(moments.values()) == {torch.bfloat16}

    run(script, monkeypatch, "--publish", tmp_path / "one")
    load_completer(tmp_path / "released")
    # Another machine has only what was published.
    run(script, monkeypatch, *common, "--output", tmp_path / "two", *SMALL)
    assert steps(tmp_path / "two" / "any-dose")[0] == first.step + 1
    # The same machine goes on with the run that it has.
    done = steps(tmp_path / "two" / "any-dose")[-1]
    run(script, monkeypatch, *common, "--output", tmp_path / "two", *SMALL)
    assert done + 1 in steps(tmp_path / "two" / "any-dose")


def test_nothing_is_published_that_is_not_there(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="train first"):
        run(script, monkeypatch, "--publish", tmp_path)
    assert not (tmp_path / "released").exists()


def test_the_store_holds_out_whole_sources_and_unclear_licences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [file for file in example_micrographs() if file.name.startswith("ardagen_ru")]
    names = ["ardagen_1.tif", "alibag_1.tif", "scilink_1.tif", "rem_1.tif"]
    rows = "".join(f"| {name} | r | p | MIT | w |\n" for name in names)
    (tmp_path / "SOURCES.md").write_text(rows)
    for name, file in zip(names, files, strict=True):
        shutil.copy(file, tmp_path / name)
    store = tmp_path / "released.zarr"
    run(load("released_store"), monkeypatch, tmp_path, "--store", store)
    found = {Path(source.path).name: source for source in MicrographStore.open(store).sources()}
    splits = {name: source.split for name, source in found.items()}
    assert splits == {
        "ardagen_1.tif": "train",
        "scilink_1.tif": "validation",
        "rem_1.tif": "validation",
    }
    assert found["ardagen_1.tif"].licence == "MIT"

    shutil.copy(files[0], tmp_path / "new_1.tif")
    with pytest.raises(SystemExit):
        run(load("released_store"), monkeypatch, tmp_path, "--store", tmp_path / "other.zarr")
    assert "no licence in SOURCES.md for new_1.tif" in capsys.readouterr().err
    assert not (tmp_path / "other.zarr").exists()


def test_arms_are_compared_and_those_done_are_kept(
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ablate = load("ablate")
    monkeypatch.setattr(ablate, "ARMS", {"small": SMALL_VALUES})
    monkeypatch.setattr(ablate, "COVERAGES", (1 / 10,))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # of this process
    common = ("--store", small_store, "--output", tmp_path, "--minutes", 0.03)
    run(ablate, monkeypatch, *common)
    found = json.loads((tmp_path / "small-seed0.json").read_text())
    assert found["steps"] >= 1
    assert found["rmse_percent"].keys() == {
        "archimedean 1/10 none",
        "archimedean 1/10 reference",
        "drawn 1/10 none",
        "drawn 1/10 reference",
    }
    run(ablate, monkeypatch, *common)
    assert json.loads((tmp_path / "small-seed0.json").read_text()) == found
    run(ablate, monkeypatch, *common, "--baselines")
    run(ablate, monkeypatch, *common, "--model", RELEASED_MODEL)
    capsys.readouterr()
    run(ablate, monkeypatch, "--output", tmp_path, "--table")
    table = capsys.readouterr().err
    assert re.search(r"\| small +\|.* 1 \|", table)
    assert "| harmonic" in table
    assert "| stem_complete-released" in table
    assert "| first-waves" in table


def protocol_report(folder: Path, error: float) -> None:
    """What the protocol might have found for the released model."""
    rmse = {"nearest": 0.2, "spline": 0.05, "model": error}
    rows = [
        Row(image, image, geometry, "1/20", "none", method, error, 20, 0.5, error, None, 0.1)
        for geometry in ("archimedean", "drawn")
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
    report = Report(rows, setup, left_out=[], baselines=("nearest", "spline"))
    folder.mkdir(parents=True)
    (folder / "protocol.json").write_text(report.to_json())
    (folder / "protocol.md").write_text(by_condition(report))
    Image.new("RGB", (2400, 400)).save(folder / "worst.png")


def test_reports_take_the_place_of_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("released_report")
    monkeypatch.setattr(script, "RELEASED_MODEL", tmp_path)
    monkeypatch.setattr(script, "EXAMPLES", script.EXAMPLES[:1])
    shutil.copy(RELEASED_MODEL / "model.json", tmp_path)
    card, readme = tmp_path / "README.md", tmp_path / "project.md"
    monkeypatch.setattr(script, "CARD", card)
    monkeypatch.setattr(script, "README", readme)
    card.write_text(
        "# Card\n<!-- unseen -->\nearlier\n<!-- /unseen -->\ntext\n"
        "<!-- held_out -->\nearlier\n<!-- /held_out -->\nend\n"
    )
    readme.write_text("# Project\n<!-- unseen -->\nearlier\n<!-- /unseen -->\nend\n")
    reports = tmp_path / "reports"
    protocol_report(reports / "unseen", 0.04)
    protocol_report(reports / "held_out", 0.03)
    run(script, monkeypatch, tmp_path / "none", "--output", reports)
    written = card.read_text()
    assert "earlier" not in written
    assert written.index("| drawn       |     1/20 |") < written.index("text\n")
    assert "0.800 [0.800, 0.800]" in written.split("text\n")[0]
    assert "0.600 [0.600, 0.600]" in written.split("text\n")[1]
    assert written.startswith("# Card\n<!-- unseen -->\n\n* model: ours, weights")
    assert written.endswith("|\n\n<!-- /held_out -->\nend\n")
    assert "**5.00**" in readme.read_text()
    assert readme.read_text().count("1/20") == 1
    for name in ("worst", "examples"):
        with Image.open(tmp_path / f"{name}.jpg") as picture:
            assert picture.width == 1200
    assert "total_variation" in (reports / "published.txt").read_text()


def test_a_page_without_a_place_for_the_table_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- unseen -->\n")
    with pytest.raises(SystemExit, match=r"expected <!-- unseen --> and .* in .*page\.md"):
        load("released_report")._replaced(page, {"unseen": "table"})
