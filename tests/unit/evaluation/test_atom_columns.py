from __future__ import annotations

import numpy as np
import pytest

from stem_complete.evaluation.atom_columns import column_errors, find_columns, spacing_px

SPACING = 12.0


def _positions(shift=(0.0, 0.0), side=160, spacing=SPACING):
    """y and x of a hexagonal lattice [n, 2]."""
    rows = np.arange(spacing, side - spacing, spacing * np.sqrt(3) / 2)
    places = [
        (y, x + (row % 2) * spacing / 2)
        for row, y in enumerate(rows)
        for x in np.arange(spacing, side - 2 * spacing, spacing)
    ]
    return np.array(places) + shift


def _image(positions, side=160, sigma=2.2, noise=0.0):
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side))
    for row, column in positions:
        image += np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
    return image + noise * np.random.default_rng(0).normal(size=image.shape)


@pytest.fixture(scope="module")
def lattice():
    return _image(_positions(), noise=0.03)


def test_the_spacing_of_a_lattice_is_found(lattice):
    assert spacing_px(lattice) == pytest.approx(SPACING, abs=0.7)
    assert spacing_px(1000 - 50 * lattice) == spacing_px(lattice), "dark columns, other units"


def test_what_is_no_lattice_has_no_spacing(texture):
    rng = np.random.default_rng(0)
    assert spacing_px(rng.normal(size=(160, 160))) is None
    assert spacing_px(texture(0, (160, 160))) is None
    assert spacing_px(np.ones((160, 160))) is None
    layers = np.tile(np.sin(2 * np.pi * np.arange(160) / SPACING), (160, 1))
    assert spacing_px(layers) is None
    assert spacing_px(_image(rng.uniform(10, 150, (60, 2)))) is None, "particles"


def test_columns_are_where_they_were_put(lattice):
    found, truth = find_columns(lattice, SPACING), _positions()
    assert len(found) == len(truth)
    errors = column_errors(truth, found, SPACING)
    assert errors.found == 1
    assert errors.rms_px < 0.1


@pytest.mark.parametrize("shift", [(0.3, 0.0), (-0.4, 1.1)])
def test_columns_that_moved_are_off_by_as_much(lattice, shift):
    moved = find_columns(_image(_positions(shift), noise=0.03), SPACING)
    errors = column_errors(find_columns(lattice, SPACING), moved, SPACING)
    assert errors.found == 1
    assert errors.rms_px == pytest.approx(np.hypot(*shift), abs=0.06)


def test_columns_that_are_missing_are_not_found(lattice):
    truth = find_columns(lattice, SPACING)
    assert column_errors(truth, truth[::2], SPACING).found == pytest.approx(0.5, abs=0.01)
    assert column_errors(truth, truth[:0], SPACING) == (len(truth), 0.0, None)
    far = column_errors(truth, truth + 1000, SPACING)
    assert (far.found, far.rms_px) == (0.0, None)


def test_two_columns_are_not_found_in_one():
    truth = np.array([[0.0, 0.0], [0.0, 5.0]])
    assert column_errors(truth, np.array([[0.0, 2.0]]), 9.0).found == 0.5
