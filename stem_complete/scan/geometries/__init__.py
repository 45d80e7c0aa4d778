"""Geometries: functions from an image's shape and a coverage to the path of the probe.

A new geometry is one function in a module here, one entry of `GEOMETRIES` and its name in
`vocabulary.Geometry`, which makes it a value of `scan.geometry` in configs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Protocol

from stem_complete.scan.geometries.coverage import Coverage
from stem_complete.scan.geometries.curves import lissajous, random_walk
from stem_complete.scan.geometries.custom_path import custom
from stem_complete.scan.geometries.hilbert_curve import hilbert
from stem_complete.scan.geometries.points import jittered_grid, random_pixels
from stem_complete.scan.geometries.published import drawn_archimedean, nominal_archimedean
from stem_complete.scan.geometries.rasters import (
    interleaved_raster,
    line_hop,
    serpentine_raster,
    sparse_rows,
)
from stem_complete.scan.geometries.spirals import archimedean, archimedean_angular, fermat
from stem_complete.scan.path import ScanPath
from stem_complete.vocabulary import Geometry

__all__ = [
    "GEOMETRIES",
    "RANDOM_GEOMETRIES",
    "Coverage",
    "MakePath",
    "archimedean",
    "archimedean_angular",
    "custom",
    "drawn_archimedean",
    "fermat",
    "hilbert",
    "interleaved_raster",
    "jittered_grid",
    "line_hop",
    "lissajous",
    "nominal_archimedean",
    "random_pixels",
    "random_walk",
    "serpentine_raster",
    "sparse_rows",
]


class MakePath(Protocol):
    """A geometry, as `GEOMETRIES` has it."""

    def __call__(self, shape: tuple[int, int], coverage: Coverage, seed: int = 0) -> ScanPath:
        """The path over an image of `shape` (h, w) [px] whose dwell map has the mean `coverage`.

        Args:
            shape: (h, w) [px].
            coverage: Mean of the dwell map.
            seed: Chooses among the paths of a random geometry; others have one path alone.

        Raises:
            ValueError: An argument is out of its range.
        """


def _for_any_seed(make: Callable[[tuple[int, int], Coverage], ScanPath]) -> MakePath:
    @wraps(make)
    def make_path(shape: tuple[int, int], coverage: Coverage, seed: int = 0) -> ScanPath:  # noqa: ARG001
        return make(shape, coverage)

    return make_path


GEOMETRIES: dict[Geometry, MakePath] = {
    "archimedean": _for_any_seed(archimedean),
    "archimedean_angular": _for_any_seed(archimedean_angular),
    "fermat": _for_any_seed(fermat),
    "lissajous": _for_any_seed(lissajous),
    "hilbert": _for_any_seed(hilbert),
    "serpentine_raster": _for_any_seed(serpentine_raster),
    "interleaved_raster": _for_any_seed(interleaved_raster),
    "sparse_rows": sparse_rows,
    "line_hop": line_hop,
    "jittered_grid": jittered_grid,
    "random": random_pixels,
    "random_walk": random_walk,
    "drawn": _for_any_seed(drawn_archimedean),
    "nominal": _for_any_seed(nominal_archimedean),
}
"""Geometries by their name in configs."""

RANDOM_GEOMETRIES: frozenset[Geometry] = frozenset(
    {"sparse_rows", "line_hop", "jittered_grid", "random", "random_walk"}
)
"""Names of those that have another path for each seed."""
