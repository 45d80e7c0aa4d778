"""Bars of writing below exported images are found, and no part of a micrograph is one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stem_complete.data.bundled import example_micrographs
from stem_complete.data.formats.databar import num_bar_rows
from stem_complete.data.formats.micrographs import read_micrograph

ROWS, COLUMNS = np.mgrid[:300, :400]
WAVES = 120 + 60 * np.sin(ROWS / 9) * np.cos(COLUMNS / 7)
RNG = np.random.default_rng(0)


def writing(height: int, background: int = 0, ink: int = 255) -> NDArray[np.uint8]:
    """A bar with two lines of blocky letters, framed by a line above."""
    bar = np.full((height, 400), background, np.uint8)
    for top in (height // 5, 3 * height // 5):
        letters = np.random.default_rng(top).random((7, 50)) < 0.5
        rows = np.repeat(letters, 6, axis=1)
        rows[:, ::3] = False
        bar[top : top + 7, 30:330][rows] = ink
    bar[0] = ink
    return bar


def exported(*, with_bar: bool) -> NDArray[np.uint8]:
    """An image of 300 x 400 px, and a bar of 40 rows below it."""
    image = WAVES.astype(np.uint8)
    return np.concatenate([image, writing(40)]) if with_bar else image


@pytest.mark.parametrize("height", [24, 40, 80])
@pytest.mark.parametrize(("background", "ink"), [(0, 255), (255, 0), (40, 220)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_bar_is_found(height: int, background: int, ink: int, dtype: type) -> None:
    image = WAVES.astype(np.uint8)
    whole = np.concatenate([image, writing(height, background, ink)]).astype(dtype)
    assert num_bar_rows(whole) == height
    assert num_bar_rows(np.stack([whole] * 3, axis=-1)) == height


def test_smooth_edges_of_letters_do_not_hide_a_bar() -> None:
    bar = writing(40).astype(float)
    bar[1:-1, 1:-1] += np.where(bar[1:-1, 1:-1] == 0, bar[1:-1, :-2] / 3, 0)
    whole = np.concatenate([WAVES, bar]).astype(np.uint8)
    assert num_bar_rows(whole) == 40


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("turns", range(4))
def test_a_clipped_micrograph_has_none(share: float, turns: int) -> None:
    for path in example_micrographs()[turns::4]:  # each of them one way up
        image = np.rot90(read_micrograph(path).pixels.astype(np.float64), turns)
        low, high = np.quantile(image, [share, (1 + share) / 2])
        clipped = (255 * np.clip((image - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)
        for end in (len(image), len(image) // 2):
            assert num_bar_rows(clipped[:end]) == 0, path


@pytest.mark.parametrize("dose", [0.05, 1, 20])
def test_counts_of_few_electrons_above_vacuum_have_none(dose: float) -> None:
    counts = RNG.poisson(dose * WAVES / 255)
    counts[-40:] = RNG.poisson(0.05 * dose, (40, 400))
    assert num_bar_rows(counts) == 0


@pytest.mark.parametrize("kind", ["aborted", "masked", "mask", "sparse", "rows"])
def test_partial_scans_and_masks_have_none(kind: str) -> None:
    visited = RNG.random(WAVES.shape) < 0.1
    if kind != "sparse":
        visited[:-40] = True
    if kind == "rows":
        visited = ROWS % 5 == 0
    if kind == "aborted":
        visited[-40:] = False
    image = np.where(visited, 255 if kind == "mask" else WAVES, 0).astype(np.uint8)
    assert num_bar_rows(image) == 0


def test_a_small_image_has_none() -> None:
    assert num_bar_rows(np.zeros((20, 20), np.uint8)) == 0
    assert num_bar_rows(np.zeros((200, 200), np.uint8)) == 0
