"""A run's folder says why it ended early."""

from __future__ import annotations

from pathlib import Path

import pytest

from stem_complete.errors import TrainingError
from stem_complete.storage.claim import ClaimLostError
from stem_complete.storage.paths import storage_path
from stem_complete.training.ending import ENDING_FILE, DivergedError, ending_kept, read_ending
from stem_complete.training.stopping import StopRequest

PARTS = {"expected": "finite losses", "found": "3 steps without", "where": "r, step 7", "fix": "x"}


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (DivergedError(**PARTS), "diverged", "r, step 7: expected finite losses, found 3 steps"),
        (TrainingError(**PARTS), "failed", "r, step 7: expected finite losses"),
        (RuntimeError("out of\nmemory"), "failed", r"RuntimeError: out of\nmemory"),
        (SystemExit(143), "signal", "SIGTERM was received"),
        (KeyboardInterrupt(), "signal", "SIGTERM was received"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_run_is_kept(
    tmp_path: Path, error: BaseException, cause: str, words: str
) -> None:
    folder, stop = storage_path(tmp_path), StopRequest()
    stop("SIGTERM was received")
    with pytest.raises(type(error)), ending_kept(folder, stop, 0.25):
        raise error
    ending = read_ending(folder)
    assert ending is not None
    assert (ending.cause, ending.learning_rate) == (cause, 0.25)
    assert ending.words.startswith(words)
    with ending_kept(folder, StopRequest(), 0.25) as time_is_over:
        assert read_ending(folder) is None  # that of before is over
    assert read_ending(folder) is None
    with ending_kept(folder, StopRequest(), 0.25) as time_is_over:
        time_is_over("an hour was over")
    assert read_ending(folder) == ("time", "an hour was over", 0.25)


def test_a_run_that_another_process_took_over_is_left_to_it(tmp_path: Path) -> None:
    folder = storage_path(tmp_path)
    with pytest.raises(ClaimLostError), ending_kept(folder, StopRequest(), 1):
        raise ClaimLostError(**PARTS)
    assert not (folder / ENDING_FILE).exists()


def test_an_ending_that_is_cut_off_is_none(tmp_path: Path) -> None:
    (tmp_path / ENDING_FILE).write_text('{"cause": "si')
    assert read_ending(storage_path(tmp_path)) is None
