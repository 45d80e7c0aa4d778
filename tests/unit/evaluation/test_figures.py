from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.evaluation import (
    CompletionExample,
    KnownScan,
    completion_figure,
    contact_sheet,
    ratios_figure,
    save_png,
)
from stem_complete.evaluation.figures import UNMEASURED
from stem_complete.evaluation.page import DPI
from stem_complete.evaluation.report import Cell

SIDE = 128
GREY_RAMP = np.linspace(0, 1, SIDE)[:, None, None]


def example(height: int = SIDE, name: str = "gradient") -> CompletionExample:
    """A truth with every grey, a tenth of its rows measured, and a completion 10% too bright."""
    truth = np.linspace(-1, 1, SIDE * SIDE).reshape(SIDE, SIDE)[:height]
    intensity = np.where(np.arange(height)[:, None] % 10 == 0, truth, np.nan)
    scan = KnownScan("a", "a", "rows", "1/10", "none", RasterScan(intensity), truth, truth)
    return CompletionExample(name, scan, {"Mirror": truth[::-1], "Network": truth + 0.2}, "a note")


def shown(axes: Any) -> np.ndarray:
    """What axes show of an image: grey levels or colours, [h, w, 3]."""
    (image,) = axes.images
    return image.cmap(image.norm(image.get_array()))[..., :3]


def test_columns_share_the_truths_greys() -> None:
    axes = completion_figure([example()]).axes[:5]
    assert [a.get_title() for a in axes] == ["Truth", "Partial scan", "Mirror", "Network", "Error"]
    truth, scan, mirror, network, error = map(shown, axes)
    expected = np.broadcast_to(GREY_RAMP, truth.shape)
    np.testing.assert_allclose(truth, expected, atol=0.02)
    np.testing.assert_allclose(mirror, expected[::-1], atol=0.02)
    np.testing.assert_allclose(network, np.clip(expected + 0.1, 0, 1), atol=0.02)
    measured = np.arange(SIDE) % 10 == 0
    np.testing.assert_allclose(scan[measured], truth[measured], atol=1e-6)
    np.testing.assert_allclose(
        scan[~measured], np.broadcast_to(to_rgb(UNMEASURED), scan[~measured].shape), atol=0.005
    )
    # The same error everywhere: one colour, and the brightest of its map.
    assert np.ptp(error.reshape(-1, 3), axis=0).max() < 1e-9
    assert error[0, 0].max() > 0.9


def test_error_and_rmse_are_in_percent_of_the_range() -> None:
    axes = completion_figure([example()]).axes[:5]
    np.testing.assert_allclose(axes[4].images[0].get_array(), 10)
    assert [a.get_xlabel() for a in axes] == [
        "a note",
        "10% of pixels measured",
        "RMSE 57.7%",  # a ramp against its mirror image: 1 / sqrt(3)
        "RMSE 10.0%",
        "mean 10.0%",
    ]


def test_a_row_for_each_example_under_its_own_name() -> None:
    long_name = "a_name_far_longer_than_the_row_is_high_0123456789.tif"
    one = completion_figure([example()])
    two = completion_figure([example(), example(SIDE // 2, long_name)])
    assert two.get_figwidth() == one.get_figwidth()
    assert 1.3 < two.get_figheight() / one.get_figheight() < 1.7
    assert two.axes[0].get_ylabel() == "gradient"
    first, last = two.axes[5].get_ylabel().split("…")
    assert long_name.startswith(first)
    assert long_name.endswith(last)


def test_perfect_completion_can_be_drawn() -> None:
    perfect = example()
    figure = completion_figure([perfect._replace(completions={"Network": perfect.scan.truth})])
    assert shown(figure.axes[3]).max() < 0.1


def test_contact_sheet_shows_every_image_over_its_whole_range() -> None:
    ramp = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    images = [ramp, 1e6 - 3 * ramp, np.where(ramp > 0.5, ramp, np.nan), np.full_like(ramp, 7.0)]
    axes = contact_sheet(images, ["a", "b", "c", "d"]).axes
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
    figure = contact_sheet([np.eye(8)] * count, ["x"] * count)
    assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)
    assert sum(bool(axes.images) for axes in figure.axes) == count


def test_a_figure_is_written_as_large_as_it_is_drawn(tmp_path: Path) -> None:
    figure = contact_sheet([np.eye(8)], ["x"])
    save_png(figure, tmp_path / "sheet.png")
    height, width = imread(tmp_path / "sheet.png").shape[:2]
    assert (width, height) == pytest.approx(DPI * figure.get_size_inches(), abs=1)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        completion_figure([])
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        contact_sheet([np.eye(8)] * 2, ["x"])
    with pytest.raises(DataError, match="completed image"):
        completion_figure([example()._replace(completions={"Network": np.eye(8)})])


def cell(geometry: str, coverage: str, noise: str, ratio: float | None) -> Cell:
    return Cell(geometry, coverage, noise, 1, 1, {}, "spline", ratio)


def test_ratios_have_a_panel_for_each_noise_and_are_darker_where_worse() -> None:
    cells = [
        cell("archimedean", "1/20", "none", 0.6),
        cell("archimedean", "1/5", "none", 1.2),
        cell("random", "1/20", "dose 20", 0.9),
        cell("random", "1/5", "dose 20", None),
    ]
    figure = ratios_figure(cells)
    none, dose, _ = figure.axes
    assert [axes.get_title() for axes in (none, dose)] == ["noise: none", "dose 20"]
    assert [label.get_text() for label in none.get_xticklabels()] == ["1/5", "1/20"]
    assert {t.get_text(): t.get_weight() for t in none.texts} == {"0.60": "normal", "1.20": "bold"}
    grey = shown(none)[0] @ [0.3, 0.6, 0.1]
    assert grey[0] < grey[1] - 0.2
    assert [text.get_text() for text in dose.texts] == ["0.90"]
    assert dose.texts[0].get_position() == (1, 1)
    with pytest.raises(ValueError, match="at least one ratio"):
        ratios_figure(cells[3:])
