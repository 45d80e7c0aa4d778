"""Paths of a user's own."""

from __future__ import annotations

import torch
from torch import Tensor

from stem_complete.scan.geometries.coverage import Coverage
from stem_complete.scan.path import ScanPath
from stem_complete.vocabulary import parse_coverage


def custom(
    positions: Tensor,
    shape: tuple[int, int],
    *,
    dwell: Tensor | None = None,
    coverage: Coverage | None = None,
) -> ScanPath:
    """A path along positions of one's own.

    Args:
        positions: (x, y) in time order `[n, 2]` [px], or what makes a tensor; pixel centres are
            whole numbers. Those outside the image do not count.
        shape: (h, w) [px].
        dwell: Time spent at each `[n]`, in full pixel dwells, or in any unit if `coverage` is
            given; None: the same at each, one full pixel dwell if `coverage` is None too.
        coverage: Mean of the dwell map; None: what `dwell` says.

    Raises:
        ValueError: The arguments do not fit together, or no position with dwell is in the image.

    Example:
        >>> custom([[4.0, 4.0], [8.5, 4.0]], (16, 16), coverage="1/20").coverage
        0.05...
    """
    positions = torch.as_tensor(positions)
    if dwell is None:
        dwell = torch.ones(len(positions))
    path = ScanPath(positions, torch.as_tensor(dwell), shape)
    if path.coverage == 0:
        raise ValueError(f"no position with dwell lies in the image of {path.shape} (h, w) px")
    if coverage is None:
        return path
    scale = parse_coverage(coverage) / path.coverage
    return ScanPath(path.positions, path.dwell * scale, shape)
