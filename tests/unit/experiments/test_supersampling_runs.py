"""Runs of the supersampling task and reports of them, from curves as MLflow has them."""

from dataclasses import replace

import numpy as np
import pytest

from stem_complete.config import expand_sweep, load_config
from stem_complete.errors import DataError, TrackingError
from stem_complete.experiments import supersampling_runs, table_1, unstable_rates
from stem_complete.experiments.supersampling_runs import (
    METRIC,
    WEIGHT,
    as_csv,
    effects,
    kept_runs,
    mean_of,
    runs_of,
)
from stem_complete.tracking import Curve

STEPS = np.arange(50, 10_001, 50)


def curve(arm, seed, final, last_step=10_000, *, breaks_off=False, started_ms=0, **settings):
    """Losses that fall to `final`, the level of the last 5,000 steps, after a spike."""
    steps = STEPS[last_step >= STEPS]
    losses = np.where(steps > 5_000, final, 2 * final)
    losses = np.where(steps == 5_000, 6 * final, losses) * WEIGHT
    if breaks_off:
        losses[-1] = np.nan
    said = {key.replace("__", "."): str(value) for key, value in settings.items()}
    run, name = f"{arm}{seed}{started_ms}", f"{arm}-seed{seed}"
    return Curve(run, name, arm, seed, started_ms, steps, losses, 1000 * steps, said)


class Tracked:
    """What a tracking server has."""

    def __init__(self, *curves):
        self.found = list(curves)

    def __call__(self, uri, experiment):
        return self

    def curves(self, metric):
        return self.found if metric == METRIC else []


CURVES = [
    *(curve("quartic-none", seed, 0.040 + 0.001 * seed) for seed in range(3)),
    *(curve("quartic-3", seed, 0.036 + 0.001 * seed + 0.0001 * (seed - 1)) for seed in range(3)),
    curve("squared-3-batch-4", 0, 0.05),
]
UNSTABLE = [
    *(curve("adam-1e-4-squared-none", seed, 0.05 + 0.001 * seed) for seed in range(3)),
    curve("adam-1e-4-squared-2", 0, 0.04),
    curve("adam-1e-4-squared-2", 1, 0.042),
    curve("adam-1e-4-squared-2", 2, 0.04, 3_000, breaks_off=True),
    curve("sgd-3e-3-quartic-none", 0, 0.04, 500, breaks_off=True),
    curve("sgd-3e-3-quartic-none", 1, 1.5),
    curve("sgd-3e-3-quartic-2", 0, 0.9),
]


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_finals_are_of_the_papers_last_steps_without_the_losses_weight():
    runs = {run.key: run for run in runs_of(CURVES)}
    assert len(runs) == 7
    run = runs["paper", "", "quartic", "3", 1, 1]
    assert (run.final, run.largest, run.steps) == pytest.approx((0.037, 6, 10_000))
    assert runs["paper", "", "squared", "3", 4, 0].final == pytest.approx(0.05)
    assert not any(run.diverged for run in runs.values())


def test_runs_that_are_no_arm_or_not_finished_are_left_out():
    others = [curve("quartic-5", 0, 1), curve("mse", 0, 1), curve("quartic-2", 0, 1, 9_000)]
    assert len(runs_of(CURVES + others)) == len(CURVES)


def test_a_longer_run_that_is_under_way_replaces_none():
    under_way = replace(curve("quartic-none", 0, 5), finished=False)
    finished = curve("quartic-none", 1, 5, last_step=6_000)
    assert [run.seed for run in runs_of([under_way, finished])] == [1]


def test_recipe_and_batch_size_are_those_that_a_run_was_trained_with():
    said = {"recipe": "reference-code", "training__batch_size": 4}
    runs = runs_of([*CURVES, curve("quartic-3", 0, 0.02, **said)])
    assert {run.key: run.final for run in runs if run.error == "quartic" and run.seed == 0} == {
        ("paper", "", "quartic", "none", 1, 0): pytest.approx(0.040),
        ("paper", "", "quartic", "3", 1, 0): pytest.approx(0.0359),
        ("reference-code", "", "quartic", "3", 4, 0): pytest.approx(0.02),
    }
    paper, _, reference, table = table_1.table(runs).split("\n\n")
    assert paper.startswith("Recipe paper: 10,000 steps at batch 1, 10,000 steps at batch 4, seeds")
    assert paper.endswith("published: 100,000 steps, 10 seeds.")
    assert reference.startswith("Recipe reference-code: 10,000 steps at batch 4, seeds")
    assert [row[2] for row in cells(table)[2:]] == ["", "", "", "", "", "2.00 (1)", "", ""]


def test_the_latest_run_of_a_name_counts():
    (run,) = runs_of([curve("quartic-3", 0, 0.02, started_ms=5), curve("quartic-3", 0, 0.03)])
    assert run.final == pytest.approx(0.02)


def test_the_share_that_was_clipped_is_that_of_the_last_losses():
    loss = curve("quartic-3", 0, 0.02)
    clipped = replace(loss, values=np.where(STEPS > 5_000, 0.25, 0.9))
    (run,) = runs_of([loss], [clipped])
    assert run.clipped == pytest.approx(0.25)
    (run,) = runs_of([loss])
    assert np.isnan(run.clipped)


def test_runs_that_broke_off_or_exploded_are_counted_and_not_averaged():
    arms = {}
    for run in runs_of(UNSTABLE):
        arms.setdefault((run.policy, run.error, run.threshold), []).append(run)
    one_broke_off = arms["adam-1e-4", "squared", "2"]
    assert [run.diverged for run in one_broke_off] == [False, False, True]
    assert [run.steps for run in one_broke_off] == [10_000, 10_000, 3_000]
    assert mean_of(one_broke_off) == "4.10 ± 0.141 (2), 1 of 3 diverged"
    assert mean_of(arms["sgd-3e-3", "quartic", "none"]) == "2 of 2 diverged"
    assert mean_of(arms["sgd-3e-3", "quartic", "2"]) == "90.00 (1)"


def test_effects_are_paired_by_seed():
    rows = cells(effects(runs_of(CURVES)))
    assert len(rows) == 3  # with one seed, or without a run that clips nothing, none is told
    assert rows[2][:6] == ["paper", "adam-1/1280", "quartic", "1", "3", "3"]
    assert rows[2][6] == "-0.400"
    assert rows[2][8] == "-9.8 %"
    assert float(rows[2][9]) < 0.001


def test_effects_are_of_seeds_that_diverged_in_neither_arm():
    rows = cells(effects(runs_of(UNSTABLE)))
    assert len(rows) == 3
    assert rows[2][1:7] == ["adam-1e-4", "squared", "1", "2", "2", "-0.950"]


def test_every_run_has_a_row():
    rows = as_csv(runs_of(CURVES)).splitlines()
    assert (
        rows[0] == "recipe,policy,error,threshold,batch,seed,steps,diverged,final,largest,clipped"
    )
    assert len(rows) == 8


def test_table_1_has_means_times_100_beside_the_published():
    header, _, *rows = cells(table_1.table(runs_of(CURVES)).split("\n\n")[1])
    assert header[2:] == ["batch 1: here", "published", "batch 4: here", "published"]
    of = {tuple(row[:2]): row[2:] for row in rows}
    assert of["quartic", "none"][:2] == ["4.10 ± 0.100 (3)", "3.88 ± 0.108"]
    assert of["squared", "3"][2] == "5.00 (1)"


def test_unstable_rates_has_a_row_for_each_policy_and_error():
    rows = cells(unstable_rates.table(runs_of(UNSTABLE)).split("\n\n")[1])[2:]
    assert len(rows) == 8
    found = {(row[0], row[2]): row[3:] for row in rows}
    assert found["adam-1e-4", "squared"] == [
        *("5.10 ± 0.100 (3)", "6"),
        *("4.10 ± 0.141 (2), 1 of 3 diverged", "6"),
    ]
    assert found["sgd-3e-3", "quartic"] == ["2 of 2 diverged", "", "90.00 (1)", "6"]
    assert found["sgd-1e-4", "squared"] == [""] * 4


NUM_ARMS = {
    "table_1": 8,
    "table_1_batch_4": 8,
    "table_1_batch_16": 8,
    "table_1_batch_64": 7,
    "unstable_rates": 16,
}


@pytest.mark.parametrize("experiment", NUM_ARMS)
def test_the_arms_of_a_config_are_those_of_its_report(experiment):
    """Each is what its name says, and has a place in the table."""
    runs = expand_sweep(load_config(["supersampling", experiment]))
    first = [run for run in runs if run.training.seed == 0]
    found = runs_of([curve(run.name.removesuffix("-seed0"), 0, 0.04) for run in first])
    assert len(found) == len(first) == NUM_ARMS[experiment]
    for run, told in zip(first, found, strict=True):
        alrc, optimizer = run.loss.alrc, run.optimizer
        assert run.loss.power == {"squared": 2, "quartic": 4}[told.error]
        assert run.batch_size == told.batch
        assert told.threshold == ("none" if alrc is None else f"{alrc.num_stddev:g}")
        if told.policy:
            name, rate = told.policy.split("-", 1)
            assert (optimizer.name.lower(), optimizer.learning_rate) == (name, float(rate))
            assert told.policy in unstable_rates.POLICIES


@pytest.mark.parametrize(
    ("experiment", "curves", "figures"),
    [
        (table_1, CURVES, {"quartic-batch-1.png", "squared-batch-4.png"}),
        (
            unstable_rates,
            UNSTABLE,
            {"adam-1e-4-squared-batch-1.png", "sgd-3e-3-quartic-batch-1.png"},
        ),
    ],
)
def test_a_report_is_written(tmp_path, monkeypatch, capsys, experiment, curves, figures):
    monkeypatch.setattr(supersampling_runs, "TrackedRuns", Tracked(*curves))
    call = ["--uri", "sqlite:///x", "--output", str(tmp_path)]
    experiment.main(call)
    assert "95 % interval" in capsys.readouterr().out
    files = {"table.md", "runs.csv", "curves.csv"}
    assert {path.name for path in tmp_path.iterdir()} == files | figures
    monkeypatch.setattr(supersampling_runs, "TrackedRuns", Tracked())
    with pytest.raises(TrackingError, match=f"supersampling {experiment.CONFIG}"):
        experiment.main(call)


def test_runs_of_an_earlier_report_are_added(tmp_path, monkeypatch, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    again = curve("quartic-3", 0, 0.03)
    monkeypatch.setattr(supersampling_runs, "TrackedRuns", Tracked(*CURVES))
    table_1.main(["--uri", "sqlite:///x", "--output", str(first)])
    monkeypatch.setattr(supersampling_runs, "TrackedRuns", Tracked(again))
    table_1.main(["--uri", "sqlite:///x", "--kept", str(first), "--output", str(second)])
    found = {run.key: run for run in kept_runs(second)}
    expected = {run.key: run for run in runs_of(CURVES)}
    assert found.keys() == expected.keys()
    newer = ("paper", "", "quartic", "3", 1, 0)
    assert found[newer].final == pytest.approx(0.03)
    for key in expected.keys() - {newer}:
        assert found[key][:8] == expected[key][:8]
        assert found[key][8:10] == pytest.approx(expected[key][8:10], rel=1e-4)
        np.testing.assert_allclose(found[key].curve, expected[key].curve, rtol=1e-4)
    table_1.main(["--kept", str(second), "--output", str(tmp_path / "third")])
    assert (tmp_path / "third" / "table.md").read_text() == (second / "table.md").read_text()
    with pytest.raises(DataError, match=r"runs\.csv"):
        table_1.main(["--kept", str(tmp_path), "--output", str(second)])
    with pytest.raises(SystemExit):
        table_1.main(["--output", str(second)])


def test_runs_of_another_batch_size_may_have_fewer_steps():
    shorter = [curve("quartic-3-batch-4", seed, 0.03, 2_500) for seed in range(2)]
    cut_off = curve("quartic-none-batch-4", 0, 0.03, 2_000)
    found = runs_of([*CURVES[:6], *shorter, cut_off])
    assert [run.steps for run in found] == [10_000] * 6 + [2_500] * 2
