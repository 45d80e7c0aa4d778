from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import numpy as np
import pytest

from stem_complete.config import Config
from stem_complete.errors import TrackingError
from stem_complete.experiments import compare
from stem_complete.tracking import MlflowRecorder, TrackedRun, finish_run, open_run

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

EXPERIMENT = "stem-complete"
Points = Mapping[str, Sequence[tuple[int, float]]]


@pytest.fixture
def train(uri: str, tmp_path: Path) -> Callable[..., TrackedRun]:
    """Makes a tracked run with the given points."""

    def train(
        name: str,
        points: Points,
        parent: TrackedRun | None = None,
        *,
        resume: bool = True,
        finished: bool = True,
    ) -> TrackedRun:
        config = Config.model_validate(
            {"name": name, "storage": tmp_path / "runs", "data": {"store": "store.zarr"}}
        )
        run = open_run(config, uri, parent=parent, resume=resume)
        recorder = MlflowRecorder(run, flush_every_s=0.01)
        for metric, values in points.items():
            for step, value in values:
                recorder.scalars(step, {metric: value})
        recorder.close()
        if finished:
            finish_run(run, "FINISHED")
        return run

    return train


def losses(level: float, spike: float = 0.0) -> list[tuple[int, float]]:
    """100 points 50 steps apart, at `level` but for a spike in the middle."""
    return [(50 * k, level + spike * (k == 50)) for k in range(1, 101)]


def test_arms_are_summarised_over_seeds(
    uri: str, train: Callable[..., TrackedRun], tmp_path: Path
) -> None:
    for seed, level in enumerate((1.0, 2.0, 4.0)):
        points = {
            "train/outer_loss": losses(level, spike=100.0),
            "train/outer_clip_fraction": [(50, 0.1), (100, 0.3)],
            "validation/rmse": [(2500, 0.04 * level), (5000, 0.05 * level)],
        }
        train(f"alrc-seed{seed}", points)
    train("mse-seed0", {"train/outer_loss": losses(3.0)})

    comparison = compare(uri, EXPERIMENT, tmp_path / "out", boxcar_steps=500)
    alrc, mse = comparison.arms
    assert (alrc.name, len(alrc.runs)) == ("alrc", 3)
    assert alrc.mean["final_loss"] == pytest.approx(fmean((1, 2, 4)))
    assert alrc.std["final_loss"] == pytest.approx(stdev((1, 2, 4)))
    assert alrc.mean["final_rmse"] == pytest.approx(0.05 * fmean((1, 2, 4)))
    assert alrc.mean["best_rmse"] == pytest.approx(0.04 * fmean((1, 2, 4)))
    assert alrc.mean["clip_fraction"] == pytest.approx(0.2)
    # A boxcar of 10 points: the spike is a tenth of the mean around it.
    assert alrc.runs["alrc-seed0"]["largest_spike"] == pytest.approx(101 / (1 + 100 / 10))
    assert mse.mean["final_loss"] == pytest.approx(3)
    assert mse.mean["largest_spike"] == pytest.approx(1)
    assert mse.mean["final_rmse"] is mse.std["final_loss"] is None

    assert comparison.figure == tmp_path / "out" / "learning_curves.png"
    assert comparison.figure.read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert saved["arms"]["alrc"]["mean"] == alrc.mean
    assert saved["arms"]["alrc"]["runs"]["alrc-seed2"]["final_loss"] == pytest.approx(4)
    written = (tmp_path / "out" / "comparison.md").read_text()
    assert written == comparison.markdown
    header, _, first, second = written.splitlines()
    names = [cell.strip() for cell in header.split("|")]
    assert names[1:5] == ["arm", "seeds", "steps", "final loss"]
    cells = [cell.strip() for cell in first.split("|")][1:-1]
    assert cells[:6] == ["alrc", "3", "5,000", "2.33 +- 1.5", "11.7 +- 7.6", "9.33 +- 6.1"]
    assert [cell.strip() for cell in second.split("|")][1:7] == ["mse", "1", "5,000", "3", "", ""]
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [*(f"alrc-seed{k}" for k in range(3)), "mse-seed0"]
    assert [float(row["final_loss"]) for row in rows] == pytest.approx([1, 2, 4, 3])
    assert [row["final_rmse"] for row in rows] == ["0.05", "0.1", "0.2", ""]
    assert {(row["seed"], row["diverged"]) for row in rows} == {(str(k), "False") for k in range(3)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "learning_curves.png",
        "comparison.csv",
        "comparison.json",
        "comparison.md",
    }


def test_the_final_loss_is_the_last_tenth(
    uri: str, train: Callable[..., TrackedRun], tmp_path: Path
) -> None:
    train("a", {"train/outer_loss": [(k, float(k)) for k in range(1, 101)]})
    train("b", {"train/outer_loss": [(1, 5.0)]})
    a, b = compare(uri, EXPERIMENT, tmp_path / "out").arms
    assert a.mean["final_loss"] == pytest.approx(np.mean(range(91, 101)))
    assert b.mean["final_loss"] == 5


def test_non_finite_losses_are_left_out(
    uri: str, train: Callable[..., TrackedRun], tmp_path: Path
) -> None:
    points = [(1, 2.0), (2, float("nan")), (3, float("inf")), (4, 4.0)]
    train("a", {"train/outer_loss": points})
    train("lost", {"train/outer_loss": [(1, float("nan"))]})
    a, lost = compare(uri, EXPERIMENT, tmp_path / "out").arms
    assert a.mean["final_loss"] == 4
    assert lost.mean["final_loss"] is None
    only_lost = compare(uri, EXPERIMENT, tmp_path / "lost", names=["lost"])
    assert only_lost.figure is None
    assert json.loads((tmp_path / "lost" / "comparison.json").read_text())


def test_runs_that_diverged_are_counted_and_have_no_final_values(
    uri: str, train: Callable[..., TrackedRun], tmp_path: Path
) -> None:
    low = {"train/outer_loss": losses(0.5)[:50], "validation/rmse": [(2500, 0.01)]}
    low["train/outer_loss"].append((2550, float("nan")))
    for seed in range(3):
        train(f"mse-seed{seed}", {"train/outer_loss": losses(3.0 + seed)})
        train(f"alrc-seed{seed}", low if seed == 0 else {"train/outer_loss": losses(2.0 + seed)})
    comparison = compare(uri, EXPERIMENT, tmp_path / "out", baseline="mse")
    alrc, mse = comparison.arms
    assert (alrc.diverged, mse.diverged) == (("alrc-seed0",), ())
    gone = alrc.runs["alrc-seed0"]
    assert gone["steps"] == 2550
    assert gone["final_loss"] is gone["best_rmse"] is gone["steps_to_loss"] is None
    assert alrc.mean["final_loss"] == pytest.approx(3.5)
    change = comparison.differences["alrc"]["final_loss"]
    assert (change.mean, change.num_seeds) == (pytest.approx(-1.0), 2)
    cells = [cell.strip() for cell in comparison.markdown.splitlines()[2].split("|")]
    assert cells[1:4] == ["alrc", "3, 1 diverged", "4,183 +- 1,415"]
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert saved["arms"]["alrc"]["diverged"] == ["alrc-seed0"]


@pytest.mark.parametrize("status", [None, "KILLED", "FAILED"])
def test_unfinished_runs_are_counted_and_not_tested(
    status: Literal["KILLED", "FAILED"] | None,
    uri: str,
    train: Callable[..., TrackedRun],
    tmp_path: Path,
) -> None:
    for seed in range(3):
        train(f"mse-seed{seed}", {"train/outer_loss": losses(3.0 + seed)})
        of = losses(2.0 + seed)
        points = {"train/outer_loss": of[:10] if seed == 1 else of}
        run = train(f"alrc-seed{seed}", points, finished=seed != 1)
        if seed == 1 and status is not None:
            finish_run(run, status)
    comparison = compare(uri, EXPERIMENT, tmp_path / "out", baseline="mse")
    alrc, mse = comparison.arms
    assert (alrc.unfinished, mse.unfinished) == (("alrc-seed1",), ())
    assert alrc.runs["alrc-seed1"]["final_loss"] == pytest.approx(3.0)  # so far
    assert comparison.differences["alrc"]["final_loss"].num_seeds == 2
    assert "| 3, 1 unfinished | 3,500 +- 2,598 |" in comparison.markdown
    assert comparison.csv.count("False,False") == 1


def test_choice_of_runs(uri: str, train: Callable[..., TrackedRun], tmp_path: Path) -> None:
    points = {"train/outer_loss": losses(1.0), "train/inner_loss": losses(7.0)}
    parent = train("sweep", {})
    for name in ("mse-seed0", "alrc-seed0", "alrc-huber-seed0"):
        train(name, points, parent)
    train("alone", points)

    def arms(**options: object) -> list[str]:
        comparison = compare(uri, EXPERIMENT, tmp_path / "out", **options)
        return [arm.name for arm in comparison.arms]

    assert arms() == ["alone", "alrc", "alrc-huber", "mse"]
    assert arms(parent=parent.run_id) == ["alrc", "alrc-huber", "mse"]
    assert arms(names=["alrc*"]) == ["alrc", "alrc-huber"]
    assert arms(names=["mse", "alrc-seed0"]) == ["alrc", "mse"]
    inner = compare(uri, EXPERIMENT, tmp_path / "out", metric="train/inner_loss")
    assert inner.arms[0].mean["final_loss"] == 7


def test_the_latest_of_one_name_counts(
    uri: str, train: Callable[..., TrackedRun], tmp_path: Path
) -> None:
    train("mse-seed0", {"train/outer_loss": losses(1.0)})
    train("mse-seed0", {"train/outer_loss": losses(2.0)}, resume=False)
    comparison = compare(uri, EXPERIMENT, tmp_path / "out")
    assert comparison.superseded == 1
    assert comparison.arms[0].mean["final_loss"] == 2


@pytest.mark.parametrize(
    ("last_step", "expected"), [(500_000, 2500), (10_000, 250), (10, 1)], ids=str
)
def test_the_boxcar_suits_the_length(
    uri: str, train: Callable[..., TrackedRun], tmp_path: Path, last_step: int, expected: int
) -> None:
    train("a", {"train/outer_loss": [(1, 1.0), (last_step, 1.0)]})
    assert compare(uri, EXPERIMENT, tmp_path / "out").boxcar_steps == expected


def test_nothing_to_compare_says_what_there_is(
    uri: str, train: Callable[..., TrackedRun], tmp_path: Path
) -> None:
    train("mse-seed0", {"train/outer_loss": losses(1.0)})
    with pytest.raises(TrackingError, match="called x, found mse-seed0"):
        compare(uri, EXPERIMENT, tmp_path / "out", names=["x"])
    with pytest.raises(TrackingError, match="runs with no/loss, found none"):
        compare(uri, EXPERIMENT, tmp_path / "out", metric="no/loss")
    assert not (tmp_path / "out").exists()
