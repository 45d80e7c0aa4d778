from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from stem_complete.errors import DataError
from stem_complete.evaluation import CompletionExample, completion_figure, contact_sheet
from stem_complete.evaluation.figures import (
    CAPTION_IN,
    GAP_IN,
    HEADING_IN,
    MARGIN_IN,
    PANEL_IN,
    ROW_LABEL_IN,
    UNMEASURED,
    _panels,
)
from stem_complete.evaluation.page import DPI

SIDE = 512


@pytest.fixture(scope="module")
def example() -> CompletionExample:
    """A truth with every grey, a tenth of its rows measured, and a completion 10% too bright."""
    truth = np.linspace(-40, 60, SIDE * SIDE).reshape(SIDE, SIDE)
    intensity = np.where(np.arange(SIDE)[:, None] % 10 == 0, truth, np.nan)
    return CompletionExample("gradient", truth, intensity, truth[::-1], truth + 10)


def panel(picture: np.ndarray, column: int) -> np.ndarray:
    """The pixels of a column of the first row of a completion figure, [512, 512, 3]."""
    top = round(DPI * (MARGIN_IN + HEADING_IN + CAPTION_IN))
    left = round(DPI * (MARGIN_IN + ROW_LABEL_IN + column * (PANEL_IN + GAP_IN)))
    return picture[top : top + SIDE, left : left + SIDE, :3]


def test_columns_share_the_truths_greys(tmp_path: Path, example: CompletionExample) -> None:
    completion_figure([example], tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")
    truth, scan, baseline, completion, error = (panel(picture, column) for column in range(5))
    expected = np.broadcast_to(np.linspace(0, 1, SIDE)[:, None, None], truth.shape)
    np.testing.assert_allclose(truth, expected, atol=0.02)
    np.testing.assert_allclose(baseline, expected[::-1], atol=0.02)
    np.testing.assert_allclose(completion, np.clip(expected + 0.1, 0, 1), atol=0.02)
    measured = ~np.isnan(example.intensity[:, 0])
    np.testing.assert_allclose(scan[measured], truth[measured], atol=1e-6)
    np.testing.assert_allclose(
        scan[~measured], np.broadcast_to(to_rgb(UNMEASURED), scan[~measured].shape), atol=0.005
    )
    # The same error everywhere: one colour, and the brightest of its map.
    assert np.ptp(error.reshape(-1, 3), axis=0).max() == 0
    assert error[0, 0].max() > 0.9


def test_error_and_rmse_are_in_percent_of_the_truths_range(example: CompletionExample) -> None:
    both = example._replace(other=example.truth)
    panels = _panels(both, "Linear interpolation", "Other", "Completion")
    np.testing.assert_allclose(panels["Error"].image, 10)
    assert panels["Error"].error_unit == "%"
    captions = {heading: panel.caption for heading, panel in panels.items()}
    assert captions == {
        "Truth": "",
        "Partial scan": "10% of pixels measured",
        "Linear interpolation": "RMSE 57.7%",  # a ramp against its mirror image: 1 / sqrt(3)
        "Other": "RMSE 0.0%",
        "Completion": "RMSE 10.0%",
        "Error": "mean 10.0%",
    }


def test_columns_without_images_are_left_out(tmp_path: Path, example: CompletionExample) -> None:
    completion_figure([example], tmp_path / "all.png")
    bare = example._replace(truth=None, baseline=None)
    completion_figure([bare], tmp_path / "bare.png")
    estimated = bare._replace(error=np.full((SIDE, SIDE), 3.0))
    completion_figure([estimated], tmp_path / "estimated.png")
    widths = {name: imread(tmp_path / f"{name}.png").shape[1] for name in ("all", "bare")}
    column = DPI * (PANEL_IN + GAP_IN)
    assert widths["bare"] == pytest.approx(
        DPI * (2 * MARGIN_IN + ROW_LABEL_IN - GAP_IN) + 2 * column, abs=1
    )
    assert widths["all"] > widths["bare"] + 3 * column
    error = panel(imread(tmp_path / "estimated.png"), 2)
    assert np.ptp(error.reshape(-1, 3), axis=0).max() == 0


def test_one_row_for_each_example(tmp_path: Path, example: CompletionExample) -> None:
    half = CompletionExample("half", *(image[: SIDE // 2] for image in example[1:5]))
    for name, examples in (("one", [example]), ("two", [example, half])):
        completion_figure(examples, tmp_path / f"{name}.png")
    one, two = (imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert two.shape[0] - one.shape[0] == pytest.approx(SIDE / 2 + DPI * CAPTION_IN, abs=1)
    np.testing.assert_array_equal(panel(one, 0), panel(two, 0))


def test_long_names_stay_beside_their_own_row(tmp_path: Path, example: CompletionExample) -> None:
    completion_figure(
        [example._replace(name="a_name_far_longer_than_the_row_is_high_0123456789.tif")],
        tmp_path / "a.png",
    )
    label = imread(tmp_path / "a.png")[:, : round(DPI * (MARGIN_IN + ROW_LABEL_IN)) - 3, :3]
    inked = np.flatnonzero((label < 0.5).any(axis=(1, 2)))
    top = DPI * (MARGIN_IN + HEADING_IN + CAPTION_IN)
    assert top - 20 < inked.min() < inked.max() < top + SIDE + 20


def test_perfect_completion_can_be_drawn(tmp_path: Path, example: CompletionExample) -> None:
    completion_figure([example._replace(completion=example.truth)], tmp_path / "a.png")
    assert panel(imread(tmp_path / "a.png"), 4).max() < 0.1


def test_contact_sheet_shows_every_image_over_its_whole_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    images = [ramp, 1e6 - 3 * ramp, np.where(ramp > 0.5, ramp, np.nan), np.full_like(ramp, 7.0)]
    contact_sheet(images, ["a", "b", "c", "d"], tmp_path / "a.png", num_columns=4)
    picture = imread(tmp_path / "a.png")
    top, step = round(DPI * (MARGIN_IN + CAPTION_IN)), round(DPI * (PANEL_IN + GAP_IN))
    shown = [
        picture[top : top + SIDE, left : left + SIDE, 0]
        for left in range(round(DPI * MARGIN_IN), picture.shape[1] - SIDE, step)
    ]
    assert len(shown) == 4
    np.testing.assert_allclose(shown[0], ramp, atol=0.02)
    np.testing.assert_allclose(shown[1], 1 - ramp, atol=0.02)
    np.testing.assert_allclose(shown[2][:200], to_rgb(UNMEASURED)[0], atol=0.005)
    np.testing.assert_allclose(shown[3], 0.5, atol=0.01)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (5, 3, 2), (9, 3, 3)], ids=str
)
def test_contact_sheet_is_about_as_wide_as_high(
    tmp_path: Path, count: int, columns: int, rows: int
) -> None:
    contact_sheet([np.eye(8)] * count, ["x"] * count, tmp_path / "a.png")
    height, width = imread(tmp_path / "a.png").shape[:2]
    assert (round(width / DPI / PANEL_IN), int(height / DPI / PANEL_IN)) == (columns, rows)


def test_what_cannot_be_drawn(tmp_path: Path, example: CompletionExample) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        completion_figure([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        contact_sheet([np.eye(8)] * 2, ["x"], tmp_path / "a.png")
    with pytest.raises(DataError, match="completed image"):
        completion_figure([example._replace(completion=np.eye(8))], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
