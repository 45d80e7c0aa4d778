"""An image is known by its pixels in whatever numbers they are saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stem_complete.data.store.pixel_hash import UNKNOWN, pixel_hashes


def pixel_hash(image: NDArray[Any]) -> int:
    return pixel_hashes(image)[0]


IMAGE = np.random.default_rng(0).integers(0, 60_000, (32, 32)).astype(np.uint16)
REAL = np.random.default_rng(1).normal(size=(32, 32))


@pytest.mark.parametrize(
    "other",
    [
        IMAGE.astype(">u2"),
        IMAGE.astype(np.uint32),
        IMAGE.astype(np.float32),
        IMAGE.astype(np.float64),
        (IMAGE.astype(np.int32) - 32_768).astype(np.int16),
        (IMAGE / 65_535).astype(np.float32),
        IMAGE * 0.37 + 5,
        np.asfortranarray(IMAGE),
        np.repeat(IMAGE, 2, axis=1)[:, ::2],
    ],
    ids=lambda other: f"{other.dtype} from {other.min():.3g} to {other.max():.3g}",
)
def test_a_conversion_keeps_it(other: NDArray[Any]) -> None:
    assert pixel_hash(other) == pixel_hash(IMAGE) != UNKNOWN


def test_real_numbers_keep_it_in_single_precision() -> None:
    assert pixel_hash(REAL.astype(np.float32)) == pixel_hash(REAL)


@given(st.integers(0, 31), st.integers(0, 31))
def test_a_change_of_one_pixel_changes_it(row: int, column: int) -> None:
    for image in (IMAGE, REAL):
        other = image.copy()
        is_dark = image[row, column] < np.median(image)
        other[row, column] = image.max() if is_dark else image.min()
        assert pixel_hash(other) != pixel_hash(image)


def test_a_flipped_or_turned_copy_is_known_an_inverted_image_is_another() -> None:
    hashes = pixel_hashes(IMAGE)
    assert len(set(hashes)) == 8
    for turns in range(4):
        for other in (np.rot90(IMAGE, turns), np.rot90(IMAGE, turns)[::-1]):
            assert set(pixel_hashes(other)) == set(hashes)
    assert len({pixel_hash(other) for other in (IMAGE, IMAGE[::-1], IMAGE.T)}) == 3
    assert not set(hashes) & set(pixel_hashes(65_535 - IMAGE))


def test_the_shape_counts() -> None:
    assert pixel_hash(IMAGE) != pixel_hash(IMAGE.reshape(16, 64))
