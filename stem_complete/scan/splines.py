"""Splines through partial scans, solved by multigrid on the device, for any path.

`evaluation.thin_plate` solves the same equations directly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.partial_scan import PartialScan, dwell_weights, sum_pixels

MAX_STIFFNESS = 40.0
"""Largest stiffness [px^2] for which one V-cycle suffices."""

_SWEEPS = 2  # relaxation sweeps before and after each correction by the coarser grid
_COARSEST_SWEEPS = 8  # relaxation sweeps on the coarsest grid
_SPREAD = 8.0  # ratio of the largest to the smallest eigenvalue that a grid's relaxation damps
_REACH = 2  # rows that a force depends on, on either side
_FLOPPY = 0.01  # stiffness [px^2] below which a plate is treated as a membrane


def spline_fill(
    scan: PartialScan,
    *,
    fidelity: float | Tensor,
    dwell_exponent: float,
    stiffness: float | Tensor,
) -> Tensor:
    """Smooth images [b, 1, h, w] near the measured intensities I: thin plates pulled by springs.

    They nearly minimise the sum over pixels of |grad u|^2 + s (laplace u)^2 + f w (u - I)^2, by
    full multigrid with one V-cycle per grid (Briggs, Henson and McCormick 2000,
    doi:10.1137/1.9780898719505, chapter 3). Unlike a direct solution, this factorises no matrix for
    each path.

    Args:
        scan: Partial scans.
        fidelity: Stiffness f of the springs; `[b, 1, 1, 1]`, or the same for all scans.
        dwell_exponent: Exponent in w = dwell^exponent, scaled to a mean of 1 over the measured
            pixels.
        stiffness: Stiffness s of the plates [px^2], at most `MAX_STIFFNESS`; `[b, 1, 1, 1]`, or the
            same for all scans.
    """
    tiny = torch.finfo(scan.dwell.dtype).tiny
    weight = in_bands(lambda dwell: dwell_weights(dwell, dwell_exponent), scan.dwell)
    total = sum_pixels(weight).clamp(min=tiny)

    def weighted(weight: Tensor, intensity: Tensor) -> Tensor:
        return (weight / total) * _finite(intensity)

    mean = sums_in_bands(weighted, weight, scan.intensity)
    num_measured = sums_in_bands(lambda dwell: dwell_weights(dwell, 0.0), scan.dwell)
    springs = in_bands(lambda weight: fidelity * num_measured * (weight / total), weight)
    del weight
    # Minus the mean, so that a small contrast on a large offset survives in float32.
    pulls = [in_bands(lambda k, i: k * (_finite(i) - mean), springs, scan.intensity)]
    grids = [_Grid(springs, stiffness, floppy=False)]
    num_coarser = max(min(scan.dwell.shape[-2:]).bit_length() - 2, 0)
    for level in range(1, num_coarser + 1):
        pulls.append(_gather(pulls[-1]))
        # On coarse grids the stiffness has no effect but costs as much.
        floppy = MAX_STIFFNESS / 4**level < _FLOPPY
        grids.append(_Grid(_gather(grids[-1].springs), grids[-1].stiffness / 4, floppy))
    plate = torch.zeros_like(pulls[-1])
    for level in range(num_coarser, -1, -1):
        if level < num_coarser:
            plate = _enlarged(plate, pulls[level])
        plate = _v_cycle(grids[level:], plate, pulls[level])
    return plate.add_(mean)


def _finite(intensity: Tensor) -> Tensor:
    return intensity.nan_to_num(0.0, math.inf, -math.inf)


class _Grid(NamedTuple):
    """The equation L u + s L L u + springs u = pull on a grid, L being minus its Laplacian."""

    springs: Tensor
    stiffness: float | Tensor
    floppy: bool

    def force(self, u: Tensor, pull: Tensor) -> Tensor:
        """Residual of the equation at `u`."""
        return in_bands(self._force, u, pull, self.springs, halo=_REACH)

    def _force(self, u: Tensor, pull: Tensor, springs: Tensor) -> Tensor:
        bent = _minus_laplacian(u)
        rest = pull - springs * u - bent
        if self.floppy:
            return rest
        return rest - self.stiffness * _minus_laplacian(bent)

    def relax(self, u: Tensor, pull: Tensor, num_sweeps: int) -> Tensor:
        """`u` with its rough errors damped; it is changed.

        Chebyshev iteration (Saad 2003, Iterative methods for sparse linear systems, algorithm 12.1)
        on the equation divided by its diagonal, whose eigenvalues are at most `largest`.
        """
        largest = (8 + 64 * self.stiffness) / (4 + 20 * self.stiffness)
        centre, radius = largest * (1 + 1 / _SPREAD) / 2, largest * (1 - 1 / _SPREAD) / 2
        inverse = in_bands(lambda springs: 1 / (4 + 20 * self.stiffness + springs), self.springs)
        ratio = radius / centre

        def begin(u: Tensor, pull: Tensor, springs: Tensor, inverse: Tensor) -> Tensor:
            return inverse * self._force(u, pull, springs) / centre

        def go_on(
            u: Tensor, pull: Tensor, springs: Tensor, inverse: Tensor, change: Tensor
        ) -> Tensor:
            push = inverse * self._force(u, pull, springs)
            return ratio * last * change + (2 * ratio / radius) * push

        change = in_bands(begin, u, pull, self.springs, inverse, halo=_REACH)
        for _ in range(num_sweeps - 1):
            u += change
            last, ratio = ratio, 1 / (2 * centre / radius - ratio)
            change = in_bands(go_on, u, pull, self.springs, inverse, change, halo=_REACH)
        u += change
        return u


def _v_cycle(grids: Sequence[_Grid], u: Tensor, pull: Tensor) -> Tensor:
    """`u`, which is changed, nearer to the solution on the first of `grids`.

    It is corrected on the coarser ones.
    """
    finest = grids[0]
    if len(grids) == 1:
        return finest.relax(u, pull, _COARSEST_SWEEPS)
    u = finest.relax(u, pull, _SWEEPS)
    rest = _gather(finest.force(u, pull))
    u += _enlarged(_v_cycle(grids[1:], torch.zeros_like(rest), rest), u)
    return finest.relax(u, pull, _SWEEPS)


def _gather(forces: Tensor) -> Tensor:
    """Sums over squares of 2x2 px, as forces on the coarser grid."""
    return F.avg_pool2d(forces, 2, ceil_mode=True, divisor_override=1)


def _enlarged(images: Tensor, like: Tensor) -> Tensor:
    """Images at twice the size, or a row or column less, as `like`."""
    h, w = like.shape[-2:]
    return F.interpolate(images, scale_factor=2, mode="bilinear")[..., :h, :w]


def _minus_laplacian(images: Tensor) -> Tensor:
    """Minus the Laplacian by the five-point stencil; border pixels repeat beyond the border."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
    neighbours = rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:]
    return 4 * images - neighbours
