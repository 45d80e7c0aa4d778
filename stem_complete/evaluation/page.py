"""Figures without a display: one style for all, and PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stem_complete.files import write_atomically

DPI = 300
GAP_IN = 0.06
TITLE_PT, TEXT_PT, SMALL_PT = 8.5, 7.5, 6.5
INK, PALE = "#222222", "#e4e4e4"

_STYLE: dict[str, Any] = {
    "figure.dpi": DPI,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": GAP_IN / 2,
    "figure.constrained_layout.h_pad": GAP_IN / 2,
    "figure.constrained_layout.wspace": 0,
    "figure.constrained_layout.hspace": 0,
    "axes.titlesize": TITLE_PT,
    "axes.titleweight": "bold",
    "axes.titlepad": 3,
    "axes.labelsize": TEXT_PT,
    "axes.labelpad": 2,
    "axes.linewidth": 0.5,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "legend.fontsize": SMALL_PT,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
} | {
    f"{axis}tick.{name}": value
    for axis in "xy"
    for name, value in {
        "color": INK,
        "labelsize": SMALL_PT,
        "major.size": 2.5,
        "major.width": 0.5,
        "major.pad": 1.5,
    }.items()
}


@contextmanager
def styled() -> Iterator[None]:
    """Draws in the common style. A decorator of functions that draw, and of what saves figures.

    matplotlib is slow to import and is imported here.
    """
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


@styled()
def save_png(figure: Any, path: Path) -> None:
    """Writes the figure at once: a reader never sees half of it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())
