"""What benchmarks measure with, and the ones that need no more than a network."""

import json
import math
import time

import pytest
from typer.testing import CliRunner

from stem_complete.benchmarks import (
    Comparison,
    Effort,
    alrc,
    as_json,
    as_markdown,
    checkpoint,
    run_benchmarks,
    train_cpu,
)
from stem_complete.benchmarks.measure import Goal, durations
from stem_complete.cli import app
from stem_complete.errors import ConfigError

QUICK = Effort(rounds=2, quick=True)


def test_cases_take_turns_and_the_warm_up_does_not_count():
    calls = []
    seconds = durations(
        {name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, calls=2
    )
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = [calls[start : start + 6] for start in range(0, len(calls), 6)]
    assert len(rounds) == 4
    assert all(sorted(taken) == list("aabbcc") for taken in rounds)


def test_seconds_are_of_one_call():
    (found,) = durations({"nap": lambda: time.sleep(0.2)}, 1, calls=3).values()
    assert 0.2 <= found[0] < 0.6


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
            Comparison("x", "s", [2.0], "y", [1.0], Goal("<=", 1.5), benchmark="b"),
            Comparison("z", "s", [], note="needs a CUDA device", goal=Goal(">=", 1), benchmark="b"),
        ]
    )
    rows = table.splitlines()
    assert rows[2] == "| b: x | 2 s | y: 1 s | 2 | <= 1.5 | **missed** |"
    assert rows[3] == "| b: z (needs a CUDA device) | not measured |  |  | >= 1 |  |"
    assert "torch" in rows[-1]


def test_json_has_every_value():
    found = Comparison("x", "s", [2.0, 3.0], "y", [1.0, 1.0], Goal("<=", 1.5), benchmark="b")
    values = json.loads(json.dumps(as_json([found])))
    (row,) = values["comparisons"]
    assert row["values"] == [2.0, 3.0]
    assert row["ratios"] == [2.0, 3.0]
    assert row["goal"] == "<= 1.5"
    assert row["met"] is False
    assert values["machine"]["cores"] >= 1


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(ConfigError, match=r"alrc, .*found nothing-like-it"):
        list(run_benchmarks(["nothing-like-it"], QUICK))


def check(found: Comparison, rounds: int) -> None:
    """Whether a comparison has a positive value for each round."""
    assert len(found.values) == rounds, found
    assert len(found.reference) in (0, rounds), found
    assert all(math.isfinite(v) and v > 0 for v in (*found.values, *found.reference)), found


def test_alrc_takes_more_operators(tmp_path):
    alone, step, operators = alrc.run(QUICK, tmp_path)
    check(alone, 2)
    check(step, 2)
    check(operators, 1)
    assert operators.values[0] > operators.reference[0]


def test_a_step_is_measured_beside_its_convolutions(tmp_path):
    (step,) = train_cpu.run(QUICK, tmp_path)
    check(step, 2)
    assert step.what == "training step"
    assert "nn.Conv2d" in step.against


def test_checkpoints_are_written(tmp_path):
    first, *others = checkpoint.run(QUICK, tmp_path)
    check(first, 1)
    for found in others:
        check(found, 2)
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    output = tmp_path / "found.json"
    arguments = ["benchmark", "train_cpu", "--quick", "--rounds", "1", "--output", str(output)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "train_cpu: training step" in done.stdout
    assert json.loads(output.read_text())["comparisons"][0]["benchmark"] == "train_cpu"
