from __future__ import annotations

import json
import math

import pytest

from stem_complete.evaluation import ScoreRow, Scores, scores_table

ROWS = [
    ScoreRow("linear", "gold", Scores(0.04, 28.0, 0.5)),
    ScoreRow("network", "gold", Scores(0.02, 34.0, 0.75)),
    ScoreRow("linear", "MoS2 | c1", Scores(0.08, 22.0, 0.7)),
    ScoreRow("network", "MoS2 | c1", Scores(0.0, math.inf, 1.0)),
]


def test_table_is_markdown_whose_columns_line_up() -> None:
    assert scores_table(ROWS).markdown.splitlines() == [
        "| method  | gold | MoS2 \\| c1 | mean RMSE [%] | mean PSNR [dB] | mean SSIM |",
        "| ------- | ---: | ---------: | ------------: | -------------: | --------: |",
        "| linear  | 4.00 |       8.00 |          6.00 |          25.00 |     0.600 |",
        "| network | 2.00 |       0.00 |          1.00 |            inf |     0.875 |",
    ]


def test_values_hold_every_score_and_the_means() -> None:
    values = scores_table(ROWS).values
    assert values["linear"]["images"]["gold"] == {"rmse": 0.04, "psnr": 28.0, "ssim": 0.5}
    assert values["linear"]["mean"] == pytest.approx({"rmse": 0.06, "psnr": 25.0, "ssim": 0.6})
    assert values["network"]["mean"]["psnr"] is None


def test_values_are_strict_json() -> None:
    values = scores_table(ROWS).values
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_one_image_needs_no_means() -> None:
    header = scores_table(ROWS[:2]).markdown.splitlines()[0]
    assert header == "| method  | RMSE [%] | PSNR [dB] |  SSIM |"


def test_many_images_are_shown_by_their_means_only() -> None:
    rows = [ScoreRow("linear", f"scan {i}", Scores(i / 100, 20.0, 0.5)) for i in range(100)]
    table = scores_table(rows)
    assert "scan 7" not in table.markdown
    assert "| linear |         49.50 |" in table.markdown
    assert len(table.values["linear"]["images"]) == 100


@pytest.mark.parametrize(
    "rows",
    [[], ROWS[:3], [*ROWS, ROWS[0]], [*ROWS[:3], ROWS[0]]],
    ids=["none", "one-missing", "one-twice", "one-twice-and-one-missing"],
)
def test_means_are_over_the_same_images(rows: list[ScoreRow]) -> None:
    with pytest.raises(ValueError, match="one row for each"):
        scores_table(rows)
