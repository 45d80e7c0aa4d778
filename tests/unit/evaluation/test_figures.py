from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from stem_complete.errors import DataError
from stem_complete.evaluation import CompletionExample, completion_figure, contact_sheet
from stem_complete.evaluation.figures import (
    UNMEASURED,
    _panels,
    draw_completions,
    draw_contact_sheet,
)

SIDE = 128
NAMES = ("Linear interpolation", "Other network", "Completion")


@pytest.fixture(scope="module")
def example() -> CompletionExample:
    """A truth with every grey, a tenth of its rows measured, and a completion 10% too bright."""
    truth = np.linspace(-40, 60, SIDE * SIDE).reshape(SIDE, SIDE)
    intensity = np.where(np.arange(SIDE)[:, None] % 10 == 0, truth, np.nan)
    return CompletionExample("gradient", truth, intensity, truth[::-1], truth + 10)


def shown(axes: Any) -> np.ndarray:
    """What axes show of an image: grey levels or colours, [h, w, 3]."""
    (image,) = axes.images
    return image.cmap(image.norm(image.get_array()))[..., :3]


def test_columns_share_the_truths_greys(example: CompletionExample) -> None:
    axes = draw_completions([example], *NAMES).axes
    assert [a.get_title() for a in axes] == [
        *("Truth", "Partial scan", "Linear interpolation", "Completion", "Error", "")
    ]
    truth, scan, baseline, completion, error = map(shown, axes[:5])
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
    assert np.ptp(error.reshape(-1, 3), axis=0).max() < 1e-9
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


def test_columns_without_images_are_left_out(example: CompletionExample) -> None:
    bare = example._replace(truth=None, baseline=None)
    titles = [a.get_title() for a in draw_completions([bare], *NAMES).axes]
    assert titles == ["Partial scan", "Completion", ""]
    estimated = bare._replace(error=np.full((SIDE, SIDE), 3.0))
    axes = draw_completions([estimated], *NAMES).axes
    assert [a.get_title() for a in axes] == ["Partial scan", "Completion", "Error", ""]
    assert np.ptp(shown(axes[2]).reshape(-1, 3), axis=0).max() == 0


def test_a_row_for_each_example_under_its_own_name(tmp_path: Path, example) -> None:
    half = CompletionExample(
        "a_name_far_longer_than_the_row_is_high_0123456789.tif",
        *(image[: SIDE // 2] for image in example[1:5]),
    )
    completion_figure([example], tmp_path / "one.png")
    completion_figure([example, half], tmp_path / "two.png")
    one, two = (imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert two.shape[1] == one.shape[1]
    assert 1.3 < two.shape[0] / one.shape[0] < 1.7
    axes = draw_completions([example, half], *NAMES).axes
    assert axes[0].get_ylabel() == "gradient"
    label = axes[6].get_ylabel()
    assert label.startswith("a_na")
    assert label.endswith(".tif")
    assert "…" in label


def test_perfect_completion_can_be_drawn(example: CompletionExample) -> None:
    figure = draw_completions([example._replace(completion=example.truth)], *NAMES)
    assert shown(figure.axes[4]).max() < 0.1


def test_contact_sheet_shows_every_image_over_its_whole_range() -> None:
    ramp = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    images = [ramp, 1e6 - 3 * ramp, np.where(ramp > 0.5, ramp, np.nan), np.full_like(ramp, 7.0)]
    axes = draw_contact_sheet(images, ["a", "b", "c", "d"], num_columns=4).axes
    assert [a.get_title() for a in axes] == ["a", "b", "c", "d"]
    first, second, third, fourth = (shown(a)[..., 0] for a in axes)
    np.testing.assert_allclose(first, ramp, atol=0.02)
    np.testing.assert_allclose(second, 1 - ramp, atol=0.02)
    np.testing.assert_allclose(third[:50], to_rgb(UNMEASURED)[0], atol=0.005)
    np.testing.assert_allclose(fourth, 0.5, atol=0.01)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (5, 3, 2), (9, 3, 3)], ids=str
)
def test_contact_sheet_is_about_as_wide_as_high(count: int, columns: int, rows: int) -> None:
    figure = draw_contact_sheet([np.eye(8)] * count, ["x"] * count)
    assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)
    assert sum(bool(axes.images) for axes in figure.axes) == count


def test_what_cannot_be_drawn(tmp_path: Path, example: CompletionExample) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        completion_figure([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        contact_sheet([np.eye(8)] * 2, ["x"], tmp_path / "a.png")
    with pytest.raises(DataError, match="completed image"):
        completion_figure([example._replace(completion=np.eye(8))], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
