"""Progress in a log file: lines, not bars."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from stem_complete import console
from stem_complete.console import (
    ProgressBar,
    TrainingProgress,
    aligned,
    counted,
    format_bytes,
    format_digits,
    format_range,
    format_seconds,
    heading,
    lines_of,
    say,
    waiting,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3 * 3600 + 5 * 60 + 9, "3 h 5 min"),
        (2 * 86400, "2 d"),
    ],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_things_are_counted_in_words():
    assert [counted(n, "file") for n in (0, 1, 2, 1200)] == [
        "0 files",
        "1 file",
        "2 files",
        "1,200 files",
    ]


def test_rows_are_aligned():
    assert aligned({"a": 1, "long": "text"}) == "a     1\nlong  text"
    assert aligned({"a": "1\n2"}) == "a  1\n   2"
    assert aligned({}) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05123, "0.0512"), (8.0, "8"), (12345.0, "12,300"), (1e-7, "1e-07"), (2.5e12, "2.5e+12")],
)
def test_numbers_have_three_digits(value, text):
    assert format_digits(value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (33_200, 34_180, "33,200 to 34,200"),
        (33_200, 33_201, "33,200 to 33,201"),
        (1e6, 1e6 + 0.25, "1,000,000.0 to 1,000,000.2"),
        (0.050001, 0.050002, "0.050001 to 0.050002"),
        (-2e12, 1 - 2e12, "-2000000000000 to -1999999999999"),
        (1.5, 1.5, "1.5"),
        (0.1, np.nextafter(0.1, 1), "0.10000000000000001 to 0.10000000000000002"),
        (np.nan, 1, "nan to 1"),
    ],
)
def test_a_range_is_never_of_two_equal_numbers(low, high, text):
    assert format_range(low, high) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1371095, "1.37 MB"), (5e9, "5 GB"), (7e15, "7,000 TB")],
)
def test_bytes_have_the_unit_that_suits_them(number, text):
    assert format_bytes(number) == text


def test_a_bar_prints_now_and_then_and_at_the_end(capsys, monkeypatch):
    with ProgressBar("working") as bar:
        for done in range(1, 51):
            bar.show(done, 100)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(console, "LINE_INTERVAL_S", 0.0)
        bar.show(51, 100, "details", left_s=61)
        assert capsys.readouterr().err == "working 51/100, 1 min 1 s left  details\n"
        monkeypatch.setattr(console, "LINE_INTERVAL_S", 1e9)
        bar.show(100, 100)
        assert capsys.readouterr().err == "working 100/100\n"


def test_training_shows_losses_thresholds_rate_and_time_left(capsys):
    progress = TrainingProgress("run", steps=10, batch_size=4)
    values = {
        "train/outer_loss": 1.5,
        "train/inner_loss": 2.5,
        "train/outer_threshold": 9.0,
        "train/outer_clip_fraction": 0.25,
        "train/examples_per_s": 2.0,
    }
    progress.scalars(10, values)
    progress.scalars(10, {"validation/rmse": 0.0525})
    progress.close()
    error = capsys.readouterr().err
    for part in ("run 10/10", "loss 1.5", "inner 2.5", "threshold 9", "clipped 25.0 %", "2.00 ex"):
        assert part in error
    assert "validation RMSE 5.25 %" in error


def test_training_of_any_task_shows_its_losses_and_takes_what_ends_its_curves(capsys):
    progress = TrainingProgress("run", steps=10, batch_size=4)
    one = {"train/image_loss": 1.5, "train/image_largest_loss": 7.0, "train/examples_per_s": 2.0}
    progress.scalars(10, one | {"validation/image_loss": 3.0})
    progress.scalars(10, {"train/image_loss": math.nan})
    progress.close()
    error = capsys.readouterr().err
    assert "loss 1.5  2.00 ex" in error
    assert "nan" not in error


@pytest.mark.parametrize(
    ("minutes", "left"), [(None, "1 h 6 min left"), (1000, "1 h 6 min left"), (2, "2 min left")]
)
def test_the_time_left_ends_with_the_minutes_of_a_run(capsys, minutes, left):
    progress = TrainingProgress("run", steps=1000, batch_size=4, minutes=minutes)
    progress.bar._last_line = -math.inf
    progress.scalars(
        10, {"train/outer_loss": 1.5, "train/inner_loss": 2.5, "train/examples_per_s": 1.0}
    )
    progress.close()
    assert left in capsys.readouterr().err


def test_what_is_said_has_no_password(capsys):
    say("1 scan completed in s3://key:hush-5up3r@bucket/completed, 0 failed")
    assert capsys.readouterr().err == "1 scan completed in s3://***@bucket/completed, 0 failed\n"


def test_lines_of_one_among_several_say_whose_they_are(capsys):
    with lines_of("mse-seed0"):
        heading("training mse-seed0")
        with waiting("opening"):
            say("  model  here\n  to do  this")
        say("mse-seed0 stopped")
    say("all have ended")
    assert capsys.readouterr().err.splitlines() == [
        "== training mse-seed0",
        "mse-seed0: opening ...",
        "mse-seed0: model  here",
        "mse-seed0: to do  this",
        "mse-seed0 stopped",
        "all have ended",
    ]


def test_several_at_the_same_time_show_lines_even_in_a_terminal(monkeypatch):
    monkeypatch.setattr(console, "console", Console(force_terminal=True, file=io.StringIO()))
    assert not ProgressBar("alone")._progress.disable
    with lines_of("one"):
        assert ProgressBar("one of several")._progress.disable
