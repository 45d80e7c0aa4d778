"""Paths of a user's own."""

from __future__ import annotations

import pytest
import torch

from stem_complete.scan import archimedean, custom

POSITIONS = [[1.0, 2.0], [5.5, 2.0], [40.0, 3.0]]


def test_own_positions_are_measured_for_one_dwell_each():
    path = custom(POSITIONS, (8, 16))
    assert path.positions.tolist() == POSITIONS
    assert path.dwell.tolist() == [1, 1, 1]


def test_own_dwell_is_kept_and_may_be_scaled_to_a_coverage():
    spiral = archimedean((32, 32), "1/5")
    same = custom(spiral.positions, spiral.shape, dwell=spiral.dwell)
    assert torch.equal(same.dwell_map(), spiral.dwell_map())
    # In microseconds, say.
    scaled = custom(spiral.positions, spiral.shape, dwell=7 * spiral.dwell, coverage="1/10")
    assert scaled.coverage == pytest.approx(1 / 10, rel=1e-5)
    assert torch.allclose(scaled.dwell, spiral.dwell / 2)


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        (
            [[40.0, 40.0]],
            {},
            r"^no position with dwell lies in the image of \(8, 16\) \(h, w\) px$",
        ),
        (POSITIONS, {"dwell": [0, 0, 1]}, "no position with dwell lies"),
        (POSITIONS, {"dwell": [1, 1]}, "one value per position"),
        (POSITIONS, {"coverage": 20}, "did you mean 0.2"),
        ([[1.0, 2.0, 3.0]], {}, "pairs"),
    ],
)
def test_broken_ones_are_refused(positions, options, message):
    with pytest.raises(ValueError, match=message):
        custom(positions, (8, 16), **options)
