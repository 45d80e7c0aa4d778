"""Every benchmark runs at its smallest size, and its peers are fair ones."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from benchmarks import BENCHMARKS, Setting, complete, scan
from benchmarks.report import Comparison, Goal, as_json, as_markdown
from benchmarks.steps import problem, training_step
from stem_complete.scan import nominal_archimedean

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_gives_rows_with_a_value_a_round(name, device, tmp_path):
    setting = Setting(tmp_path, torch.device(device), rounds=2, quick=True)
    found = list(import_module(f"benchmarks.{name}").run(setting))
    assert found
    assert any(row.goal for row in found)
    for row in found:
        assert len(row.values) == (1 if row.unit == "operators" else 2), row
        assert len(row.reference) == len(row.values), row
        assert all(0 < value < math.inf for value in (*row.values, *row.reference)), row


def test_a_step_with_simulated_scans_is_the_same_step():
    states = []
    for simulated in (True, False):
        torch.manual_seed(0)
        given = problem(quick=True)
        training_step(given, simulated=simulated)()
        states.append(given.task.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)


def test_counted_operations_are_two_per_multiply_accumulate():
    convolution = nn.Conv2d(3, 5, 3, padding=1)
    assert complete.count_flop(convolution, torch.zeros(1, 3, 8, 8)) == 2 * 3 * 5 * 9 * 64


@pytest.mark.parametrize("coverage", [1 / 10, 1 / 20, 1 / 50])
def test_the_plain_spiral_is_ours(coverage):
    ours = nominal_archimedean((512, 512), coverage).dwell_map().numpy()
    assert np.array_equal(scan.spiral(512, coverage), ours)


@pytest.fixture(scope="module")
def both():
    """Our simulation of an image without flips, and the plain one of the same image."""
    given = problem(
        "scan.geometry=nominal",
        "augmentation=null",
        "model.encoding=reference",
        quick=True,
    )
    batch = given.task.simulator(given.batch, 0, torch.arange(1))
    image, dwell = given.batch[0, 0].numpy(), scan.spiral(128, scan.COVERAGE)
    peer = scan.simulate(image, dwell, np.random.default_rng(0), augment=False)
    return given.task, batch, peer


def test_the_plain_truth_is_ours(both):
    _, batch, peer = both
    np.testing.assert_allclose(peer.truth, batch.truth[0, 0].numpy(), atol=2e-6)


def test_the_plain_scan_is_ours_but_for_chance(both):
    task, batch, peer = both
    ours = task.encode(batch.scan).x[0].numpy()
    assert np.array_equal(ours[1], peer.dwell)
    assert np.array_equal(ours[0] > 0, peer.scan > 0)
    assert ours[0].max() == pytest.approx(1)
    assert peer.scan.max() == pytest.approx(1)


def test_the_plain_noise_is_uniform_as_ours(both):
    _, batch, peer = both
    dwell, truth = peer.dwell, peer.truth
    bias = scan.background(truth)
    # Elsewhere chance hardly acts, and rounding would decide.
    sure = (dwell > 0) & (np.abs(bias) > 0.1)
    dwell, truth, bias = dwell[sure], truth[sure], bias[sure]

    detected = scan.detect(peer.truth, peer.dwell, np.random.default_rng(1))
    for intensity in (batch.scan.intensity[0, 0].numpy()[sure], detected[sure] / dwell):
        chance = (intensity - dwell * truth) / (2 * (1 - dwell) * bias)
        assert len(chance) > 1000
        assert kstest(chance, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [
        (Goal("<=", 1.1), 1.1, True),
        (Goal("<=", 1.1), 1.2, False),
        (Goal(">=", 2), 2.5, True),
        (Goal(">=", 2), 1.5, False),
    ],
)
def test_goals(goal, ratio, met):
    assert Comparison("x", "s", [ratio], "y", [1.0], goal).met is met


def test_a_goal_is_judged_by_the_median_of_paired_ratios():
    # The machine was slow in the second round, for both.
    found = Comparison("x", "s", [1.0, 9.0, 1.0], "y", [1.0, 10.0, 2.0], Goal("<=", 0.95))
    assert found.ratios == [1.0, 0.9, 0.5]
    assert found.met is True


def test_the_table_says_what_was_missed_and_what_was_not_measured():
    table = as_markdown(
        [
            Comparison("x", "s", [2.0], "y", [1.0], Goal("<=", 1.5)),
            Comparison("z", "s", [], note="needs a CUDA device", goal=Goal(">=", 1)),
        ]
    )
    rows = table.splitlines()
    assert rows[2] == "| x | 2 s | y: 1 s | 2 | <= 1.5 | **missed** |"
    assert rows[3] == "| z (needs a CUDA device) | not measured |  |  | >= 1 |  |"
    assert "torch" in rows[-1]


def test_json_has_every_value():
    found = Comparison("x", "s", [2.0, 3.0], "y", [1.0, 1.0], Goal("<=", 1.5))
    values = json.loads(json.dumps(as_json([found])))
    (row,) = values["comparisons"]
    assert row["values"] == [2.0, 3.0]
    assert row["ratios"] == [2.0, 3.0]
    assert row["goal"] == "<= 1.5"
    assert row["met"] is False
    assert values["machine"]["cores"] >= 1
