"""The report of Table I, from curves as MLflow has them."""

import numpy as np
import pytest

from stem_complete.errors import TrackingError
from stem_complete.experiments import table_1
from stem_complete.experiments.table_1 import WEIGHT, as_csv, effects, report, runs_of, table
from stem_complete.tracking import Curve

STEPS = np.arange(50, 10_001, 50)


def curve(arm, seed, final, last_step=10_000):
    """Losses that fall to `final`, the level of the last 500 steps, after a spike at step 5,000."""
    steps = STEPS[last_step >= STEPS]
    losses = np.where(steps > 9_500, final, 2 * final)
    losses = np.where(steps == 5_000, 6 * final, losses) * WEIGHT
    return Curve(f"{arm}{seed}", f"{arm}-seed{seed}", arm, seed, 0, steps, losses, 1000 * steps)


CURVES = [
    *(curve("quartic-none", seed, 0.040 + 0.001 * seed) for seed in range(3)),
    *(curve("quartic-3", seed, 0.036 + 0.001 * seed + 0.0001 * (seed - 1)) for seed in range(3)),
    curve("squared-3-batch-4", 0, 0.05),
]


def test_finals_are_of_the_last_twentieth_without_the_losses_weight():
    runs = {(run.error, run.threshold, run.batch, run.seed): run for run in runs_of(CURVES)}
    assert len(runs) == 7
    run = runs["quartic", "3", 1, 1]
    assert (run.final, run.largest, run.steps) == pytest.approx((0.037, 6, 10_000))
    assert runs["squared", "3", 4, 0].final == pytest.approx(0.05)


def test_runs_that_are_no_arm_or_not_finished_are_left_out():
    others = [curve("quartic-5", 0, 1), curve("mse", 0, 1), curve("quartic-2", 0, 1, 9_000)]
    assert len(runs_of(CURVES + others)) == len(CURVES)


def test_the_table_has_means_times_100_beside_the_published():
    lines = table(runs_of(CURVES)).splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header[2:] == ["batch 1: here", "published", "batch 4: here", "published"]
    (row,) = [line for line in lines if "quartic" in line and "none" in line]
    assert "4.10 ± 0.100 (3)" in row
    assert "3.88 ± 0.108" in row
    (row,) = [line for line in lines if line.replace(" ", "").startswith("|squared|3|")]
    assert "5.00 (1)" in row


def test_effects_are_paired_by_seed():
    lines = effects(runs_of(CURVES)).splitlines()
    assert len(lines) == 3  # with one seed, or without a run that clips nothing, none is told
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:4] == ["quartic", "1", "3", "3"]
    assert cells[4] == "-0.400"
    assert cells[6] == "-9.8 %"
    assert float(cells[7]) < 0.001


def test_every_run_has_a_row():
    rows = as_csv(runs_of(CURVES)).splitlines()
    assert rows[0] == "error,threshold,batch,seed,steps,final,largest"
    assert len(rows) == 8


def test_the_report_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(table_1, "list_curves", lambda *_: CURVES)
    assert "batch 4" in report("sqlite:///x", "table-1", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"table.md", "runs.csv", "quartic-batch-1.png", "squared-batch-4.png"}
    monkeypatch.setattr(table_1, "list_curves", lambda *_: [])
    with pytest.raises(TrackingError, match="finished runs"):
        report("sqlite:///x", "table-1", tmp_path)
