"""What is said of tracked curves, here given as they are."""

from __future__ import annotations

import numpy as np
import pytest

from stem_complete.errors import TrackingError
from stem_complete.experiments import comparison
from stem_complete.experiments.paired import difference, ratio
from stem_complete.tracking import Curve


def curve(name, seed, steps, values, times_ms=None):
    steps = np.asarray(steps)
    times = 1000 * np.arange(len(steps)) if times_ms is None else np.asarray(times_ms)
    run = f"{name}-seed{seed}"
    return Curve(run, run, name, seed, 0, steps, np.asarray(values, float), times)


@pytest.fixture
def compare(monkeypatch, tmp_path):
    def compare(curves, **options):
        """By metric."""

        class TrackedRuns:
            def __init__(self, uri, experiment, *, parent=None):
                pass

            def curves(self, metric, *, run_ids=None):
                of_runs = curves.get(metric, [])
                found = [c for c in of_runs if run_ids is None or c.run_id in run_ids]
                return sorted(found, key=lambda c: (c.arm, c.seed))

        monkeypatch.setattr(comparison, "TrackedRuns", TrackedRuns)
        options = {"metric": "train/a_loss", "boxcar_steps": 1} | options
        return comparison.compare("uri", "experiment", tmp_path / "out", **options)

    return compare


def test_spikes_are_counted_by_the_largest_losses(compare):
    steps = np.arange(1, 101)
    largest = np.full(100, 2.0)
    largest[[10, 50]] = 5.1, 40
    largest[70] = np.inf
    curves = {
        "train/a_loss": [curve("x", 0, steps, np.ones(100)), curve("old", 0, steps, np.ones(100))],
        "train/a_largest_loss": [curve("x", 0, steps, largest)],
    }
    old, new = compare(curves).arms
    assert (new.mean["num_spikes"], new.mean["largest_spike"]) == (2, 40)
    assert (old.mean["num_spikes"], old.mean["largest_spike"]) == (0, 1)


def test_steps_to_a_loss_are_by_the_boxcar_mean(compare):
    steps = np.arange(10, 1010, 10)
    falling = 10 - steps / 100
    falling[3] = 0.0  # alone it says nothing
    slower = np.maximum(falling, 5.0)
    curves = {"train/a_loss": [curve("fast", 0, steps, falling), curve("slow", 0, steps, slower)]}
    fast, slow = compare(curves, boxcar_steps=100, loss_to_reach=4.0).arms
    assert fast.mean["steps_to_loss"] == pytest.approx(600, abs=10)
    assert slow.mean["steps_to_loss"] is None
    found = compare(curves, boxcar_steps=100)
    assert found.loss_to_reach == 5
    assert [arm.mean["steps_to_loss"] is not None for arm in found.arms] == [True, True]
    assert "steps to a loss of 5" in found.markdown


def test_time_leaves_pauses_out(compare):
    times = [0, 6e4, 12e4, 9e7, 9e7 + 6e4]
    (arm,) = compare({"train/a_loss": [curve("x", 0, range(5), np.ones(5), times)]}).arms
    assert arm.mean["minutes"] == pytest.approx(5)


def test_differences_and_ratios_are_paired_by_seed(compare):
    finals = {
        "mse": {0: 5.0, 1: 7.0, 2: 9.0, 5: 1.0},
        "alrc": {0: 4.0, 1: 6.1, 2: 7.9},
        "one": {0: 3.0},
    }
    curves = {
        "train/a_loss": [
            curve(arm, seed, [10, 20], [100.0, final])
            for arm, by_seed in finals.items()
            for seed, final in by_seed.items()
        ]
    }
    found = compare(curves, baseline="mse")
    assert found.differences == {"alrc": {"final_loss": difference(finals["alrc"], finals["mse"])}}
    expected = ratio(finals["alrc"], finals["mse"])
    assert found.ratios == {"alrc": {"final_loss": expected}}
    assert found.to_dict()["ratios"]["alrc"]["final_loss"]["mean"] == expected.mean
    cells = [cell.strip() for cell in found.markdown.splitlines()[-1].split("|")]
    assert cells[1:5] == ["alrc", "final loss", "3", "-1"]
    assert cells[7:10] == [
        f"{expected.mean:.3g}",
        f"{expected.low:.3g} to {expected.high:.3g}",
        f"{expected.p:.2g}",
    ]
    assert compare(curves).baseline == "alrc"
    with pytest.raises(TrackingError, match="baseline 'none', found"):
        compare(curves, baseline="none")


def test_losses_that_are_not_positive_have_differences_only(compare):
    curves = [
        curve(arm, seed, [10, 20], [1.0, final])
        for arm, final in (("a", 0.0), ("b", 1.0))
        for seed in range(2)
    ]
    found = compare({"train/a_loss": curves})
    assert found.ratios == {}
    assert found.differences["b"]["final_loss"].mean == 1
    assert found.markdown.splitlines()[-1].endswith("|       |               |     |")


def test_only_what_is_recorded_has_columns(compare):
    header = compare({"train/a_loss": [curve("x", 0, [10, 20], [1.0, 1.0])]}).markdown
    assert "clipped" not in header
    assert "RMSE" not in header
