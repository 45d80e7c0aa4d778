"""Figures without a display, written as PNG: matplotlib's object interface on an Agg canvas."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from stem_complete.files import write_atomically

DPI = 300
HEADING_PT, TEXT_PT, SMALL_PT = 8.5, 7.5, 6.5
INK = "#222222"
GAP_IN = 0.06


def new_figure(width: float, height: float) -> Any:
    """A white matplotlib figure of `width` x `height` inches that lays out its axes itself.

    matplotlib is slow to import and is imported here.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=GAP_IN / 2, h_pad=GAP_IN / 2, wspace=0, hspace=0)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Any, path: Path) -> None:
    """Writes the figure at once: a reader never sees half of it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    write_atomically(path, picture.getvalue())
