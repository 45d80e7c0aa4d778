"""Scores of several methods on several images, as a table to read and as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from stem_complete.evaluation.metrics import Scores

MAX_IMAGE_COLUMNS = 8


class ScoreRow(NamedTuple):
    """The scores of one method on one image."""

    method: str
    image: str
    scores: Scores


class ScoresTable(NamedTuple):
    """Scores by method and image.

    Attributes:
        markdown: Aligned table, methods down: RMSE of every image [% of the truth's range], then
            the means of RMSE, PSNR [dB] and SSIM. Above `MAX_IMAGE_COLUMNS` images, means only.
        values: `{method: {"images": {image: scores}, "mean": scores}}`, where `scores` are
            `{"rmse", "psnr", "ssim"}`, RMSE as a fraction; null for an infinite PSNR, which JSON
            cannot hold.
    """

    markdown: str
    values: dict[str, Any]


def scores_table(rows: Sequence[ScoreRow]) -> ScoresTable:
    """Table of scores with their means; methods and images in the order of first appearance.

    Raises:
        ValueError: No rows, or not exactly one for every method and image: means over different
            images could not be compared.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    images = list(dict.fromkeys(row.image for row in rows))
    scores = {(row.method, row.image): row.scores for row in rows}
    if not rows or not len(rows) == len(scores) == len(methods) * len(images):
        raise ValueError(
            f"scores_table needs one row for each of {len(methods)} methods and {len(images)} "
            f"images, got {len(rows)} rows for {len(scores)} pairs"
        )
    means = {
        method: Scores(*map(fmean, zip(*(scores[method, image] for image in images), strict=True)))
        for method in methods
    }
    values = {
        method: {
            "images": {image: _json_values(scores[method, image]) for image in images},
            "mean": _json_values(means[method]),
        }
        for method in methods
    }
    shown = images if 1 < len(images) <= MAX_IMAGE_COLUMNS else []
    mean = "mean " if len(images) > 1 else ""
    header = ["method", *shown, f"{mean}RMSE [%]", f"{mean}PSNR [dB]", f"{mean}SSIM"]
    table = [
        [
            method,
            *(f"{100 * scores[method, image].rmse:.2f}" for image in shown),
            f"{100 * means[method].rmse:.2f}",
            f"{means[method].psnr:.2f}",
            f"{means[method].ssim:.3f}",
        ]
        for method in methods
    ]
    return ScoresTable(_markdown([header, *table]), values)


def _markdown(table: Sequence[Sequence[str]]) -> str:
    """Markdown table whose columns also line up in a terminal; the first one to the left."""
    header, *body = ([cell.replace("|", "\\|") for cell in row] for row in table)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligns: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "| "
        + " | ".join(
            align(cell, width) for align, cell, width in zip(aligns, row, widths, strict=True)
        )
        + " |"
        for row in (header, rules, *body)
    )


def _json_values(scores: Scores) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None for name, value in scores._asdict().items()
    }
