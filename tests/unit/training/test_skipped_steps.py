"""Of steps that are skipped a log says all, in few lines."""

from __future__ import annotations

from stem_complete.training.skipped_steps import SkippedSteps, what_was_not_finite


def test_thousands_of_skipped_steps_are_a_dozen_lines() -> None:
    skipped = SkippedSteps()
    told = [skipped.tell(2, 10 * step, [step % 3]) for step in range(1, 5001)]
    lines = [line for line in told if line]
    assert len(lines) == 13
    assert lines[:3] == [
        "skipped 2 steps up to step 10: no finite loss of examples [1]",
        "skipped 2 steps up to step 20: no finite loss of examples [2]",
        "skipped 4 steps up to step 40: no finite loss of examples [0, 1]",
    ]


def test_a_gradient_is_of_no_example() -> None:
    assert SkippedSteps().tell(1, 7, []) == (
        "skipped 1 step up to step 7: losses were finite, but not their gradient"
    )
    assert SkippedSteps(if_high=True).tell(2, 7, []) == (
        "skipped 2 steps up to step 7: their loss or gradient stood out, or the gradient was not "
        "finite"
    )
    assert what_was_not_finite({5, 3}) == "no finite loss of examples [3, 5]"
