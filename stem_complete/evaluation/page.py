"""A blank page on which figures are placed in inches, and its writing as PNG.

matplotlib's object interface on an Agg canvas: no display, no pyplot, no global state. Placing by
hand keeps panels aligned and images at their own resolution, whatever their labels.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

DPI = 300
HEADING_PT, TEXT_PT, SMALL_PT = 8.5, 7.5, 6.5
INK = "#222222"


class Page:
    """A white page of `width` x `height` inches; positions count from its top left corner.

    matplotlib is slow to import, so that waits until a page is made.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Empty matplotlib axes in the given rectangle."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def text(self, x: float, y: float, text: str, size: float = TEXT_PT, **style: Any) -> None:
        """Text centred on (x, y)."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontsize=size,
            color=INK,
            **{"ha": "center", "va": "center"} | style,
        )

    def save(self, path: Path) -> None:
        """Writes the page as PNG at once: a reader never sees half of it."""
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png", dpi=DPI)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(picture.getvalue())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
