"""What `inspect` shows of a run, a model and a file, on a screen."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stem_complete.config import BUNDLED, load_config
from stem_complete.errors import TrainingError
from stem_complete.inference.card import CARD_FILE
from stem_complete.inspection import inspect_path
from stem_complete.storage.claim import CLAIM_FILE, claimed
from stem_complete.storage.paths import storage_path
from stem_complete.summaries import everything, screen
from stem_complete.tracking import DATABASE, default_uri
from stem_complete.tracking.journal import JOURNAL, Journal, Scalars
from stem_complete.tracking.links import PLACE_FILE, Place, keep_place
from stem_complete.training import Checkpoints
from stem_complete.training.ending import DivergedError, ending_kept
from stem_complete.training.stopping import StopRequest


def rows_of(text: str) -> dict[str, str]:
    """The first line of each row, by its label."""
    lines = text.splitlines()
    width = max(line.index("  ") for line in lines if not line.startswith(" "))
    found = {}
    for line in lines:
        label, _, rest = line.partition("  ")
        found.setdefault(label.strip() or "", rest.strip() if label else line[width:].strip())
    return found


@pytest.fixture
def make_run(tmp_path: Path):
    """A run of 1,000 steps with checkpoints; its journal was last written so many seconds ago."""

    def make(*scores: float, name: str = "compact", last_step: int = 0, ago_s: float = 0) -> Path:
        changes = ["name=r", f"storage={tmp_path}", "training.steps=1000", "data.store=s.zarr"]
        config = load_config([name], changes)
        folder = tmp_path / "r"
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        checkpoints = Checkpoints(folder, keep=9)
        for number, score in enumerate(scores, start=1):
            metrics = {"validation/rmse": score}
            state = {"task": {"w": torch.zeros(10)}}
            plain = config.model_dump(mode="json")
            checkpoints.save(250 * number, state, config=plain, metrics=metrics, score=score)
            checkpoints.wait()
        if last_step:
            now_ms = int(1000 * (time.time() - ago_s))
            values = {"train/outer_loss": 13.61234, "train/examples_per_s": 80.123}
            Journal(folder / JOURNAL).append(Scalars(now_ms, last_step, values))
        return folder

    return make


def test_samples_are_shown_by_their_columns(tmp_path: Path) -> None:
    file = tmp_path / "scan.csv"
    file.write_text("# shape: 64 64\nx,y [nm],HAADF\n1,2,500\n3,4,nan\n5,6,700\n")
    values = inspect_path(file)
    assert values["columns"]["HAADF"] == {"shape": [3], "range": [500, 700]}
    shown = screen(values)
    assert rows_of(shown)["samples"] == "3"
    for text in ("y [nm]: 2 to 6", "HAADF: 500 to 700", "shape: 64 64", f"--path {file}"):
        assert text in shown
    assert yaml.safe_load(everything(values))["facts"] == {"shape": "64 64"}


def test_a_finished_run_is_used(make_run) -> None:
    folder = make_run(0.4, 0.2, 0.1, 0.30123)
    rows = rows_of(screen(inspect_path(folder)))
    assert rows["state"] == "finished: step 1,000 of 1,000 (100 %)"
    assert rows["error"] == (
        "validation RMSE 10 % of the range at step 750, the best; 30.1 % at step 1,000"
    )
    assert rows["next"].endswith(f"complete SCANS --model {folder} --output FOLDER")


def test_a_stopped_run_is_started_again_by_the_command_that_is_told(make_run) -> None:
    folder = make_run(0.4, last_step=300, ago_s=7200)
    rows = rows_of(screen(inspect_path(folder)))
    assert rows["state"] == "stopped: step 300 of 1,000 (30 %), recorded 2 h ago"
    assert rows["training"] == "loss 13.6, 80.1 examples/s"
    assert rows["next"].endswith(f"train {folder}/config.yaml")


@pytest.mark.parametrize("cause", ["diverged", "failed"])
def test_a_run_that_ended_early_says_why(make_run, cause) -> None:
    folder = make_run(0.4, last_step=300)
    error = (DivergedError if cause == "diverged" else TrainingError)(
        expected="finite losses", found="50 steps without" + 80 * " 1234", where="r", fix="lower it"
    )
    with pytest.raises(TrainingError), ending_kept(storage_path(folder), StopRequest(), 1e-3):
        raise error
    text = screen(inspect_path(folder))
    rows = rows_of(text)
    assert rows["why"].startswith("r: expected finite losses, found 50 steps without 1234")
    assert rows["why"].endswith("1234 ... --all")
    lower = " optimizer.learning_rate=0.0005" if cause == "diverged" else ""
    assert rows["next"].endswith(f"train {folder}/config.yaml{lower}")
    assert num_lines(text) <= 24
    assert str(error) in " ".join(everything(inspect_path(folder)).split())


def test_a_run_whose_process_died_says_so(make_run) -> None:
    folder = make_run(0.4, last_step=300)
    with claimed(folder):
        claim = json.loads((folder / CLAIM_FILE).read_bytes())
    (folder / CLAIM_FILE).write_text(json.dumps(claim | {"pid": 2**22 + 1, "birth": ""}))
    rows = rows_of(screen(inspect_path(folder)))
    assert rows["state"].startswith("stopped: step 300")
    assert rows["why"].startswith(f"process {2**22 + 1} of ")
    assert rows["why"].endswith("died without a word, as by SIGKILL or for lack of memory")


def test_training_is_the_first_of_the_settings_that_are_shown(make_run) -> None:
    shown = screen(inspect_path(make_run(0.4, name="any_dose")))
    assert rows_of(shown)["settings"].startswith("training ")


def test_a_run_that_is_held_runs(make_run) -> None:
    folder = make_run(last_step=20, ago_s=3)
    with claimed(folder):
        rows = rows_of(screen(inspect_path(folder)))
    assert rows["state"].startswith(f"running as process {os.getpid()} of ")
    assert ": step 20 of 1,000 (2 %), recorded 3 s ago" in rows["state"]
    assert rows["checkpoints"] == "none"
    assert rows["next"].startswith("wait")


@pytest.mark.parametrize("name", sorted(path.stem for path in BUNDLED.glob("*.yaml")))
def test_a_run_of_any_bundled_config_fits_a_screen(make_run, name) -> None:
    folder = make_run(0.4, 0.3, name=name, last_step=700)
    (folder.parent / DATABASE).touch()
    keep_place(folder, Place(default_uri(folder.parent), "12", 32 * "f"))
    text = screen(inspect_path(folder))
    assert num_lines(text) <= 24
    assert "/#/experiments/12/runs/" in rows_of(text)["curves"]
    (folder / "model").mkdir()
    (folder / "model" / CARD_FILE).touch()
    text = screen(inspect_path(folder))
    assert num_lines(text) <= 24
    assert rows_of(text)["model"] == "model/ in the run's folder"


def num_lines(text: str) -> int:
    """Lines of a text on a screen of 80 columns."""
    return sum(-(-len(line) // 80) for line in text.splitlines())


def test_settings_take_the_lines_that_are_left(make_run) -> None:
    values = inspect_path(make_run(0.4, name="any_dose"))
    shown = [screen(values | {"path": f"/{size * 'x'}"}) for size in (10, 700, 2000)]
    counts = [1 + text.split("settings")[1].split("checkpoints")[0].count("\n") for text in shown]
    assert counts[0] > counts[1] > counts[2] == 3  # with the line after them
    assert all(num_lines(text) <= 24 for text in shown[:2])


@pytest.mark.parametrize("kept", ["http://mlflow:5000", None])
def test_curves_are_linked_where_they_went(make_run, kept, monkeypatch) -> None:
    folder = make_run(0.4)
    moved_from = "sqlite:////elsewhere/mlflow.db"
    keep_place(folder, Place(kept or moved_from, "3", "abc"))
    (folder.parent / DATABASE).touch()
    found = inspect_path(folder)["places"]
    assert found["curves"].startswith(
        f"{kept or 'http://127.0.0.1:5000'}/#/experiments/3/runs/abc/model-metrics"
    )
    assert ("start MLflow" in found) == (kept is None)
    assert moved_from not in str(found)
    # What a database knows by a number is another thing on a server.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    found = inspect_path(folder)["places"]
    assert ("curves" in found) == (kept is not None)


def test_a_place_that_is_cut_off_is_none(make_run) -> None:
    folder = make_run(0.4)
    (folder / PLACE_FILE).write_text('{"uri": ')
    (folder.parent / DATABASE).touch()
    assert set(inspect_path(folder)["places"]) == {"start MLflow", "experiments"}


def test_a_model(model_folder) -> None:
    values = inspect_path(model_folder)
    rows = rows_of(screen(values))
    assert rows["scans"] == "of coverage 1/10"
    assert rows["error map"] == "calibrated"
    assert len(screen(values).splitlines()) <= 24
    assert "architecture:" in everything(values)


def test_a_scan_with_gaps_is_completed_and_a_whole_image_may_be_either(tmp_path) -> None:
    image = np.random.default_rng(0).uniform(size=(48, 48)).astype(np.float32)
    np.save(tmp_path / "whole.npy", image)
    rows = rows_of(screen(inspect_path(tmp_path / "whole.npy")))
    assert rows["images"].startswith("48 x 48 px, float32, pixel size unknown, values ")
    assert rows["a micrograph"].endswith(f"ingest {tmp_path}/whole.npy --store STORE")
    assert "--dwell" in rows["a partial scan"]
    image[::2] = np.nan
    np.save(tmp_path / "gaps.npy", image)
    rows = rows_of(screen(inspect_path(tmp_path / "gaps.npy")))
    assert rows["images"].endswith("50 % of the pixels measured")
    assert "a micrograph" not in rows
