"""The benchmark of the user's machine: rounds, ratios, goals, table and JSON."""

import json

import pytest
import torch

from stem_complete.benchmark import Comparison, Goal, as_json, as_markdown, benchmark, durations
from stem_complete.data.store.store import MicrographStore


def test_cases_take_turns_and_the_warm_up_does_not_count():
    calls = []
    seconds = durations(
        {name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, calls=2
    )
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = [calls[start : start + 6] for start in range(0, len(calls), 6)]
    assert len(rounds) == 4
    assert all(sorted(taken) == list("aabbcc") for taken in rounds)


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


def test_training_completion_and_loader_are_measured(small_config, small_store):
    store = MicrographStore(small_store)
    found = benchmark(small_config(), store, torch.device("cpu"), rounds=2)
    assert [row.what for row in found] == [
        "training step",
        "completion by the released model",
        "loader",
    ]
    assert all(len(row.values) == 2 and min(row.values) > 0 for row in found)
    assert found[2].reference == found[0].values
