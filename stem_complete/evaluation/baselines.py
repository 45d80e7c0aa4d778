"""Classical completions of a partial scan, which a network has to beat.

Every baseline takes a `RasterScan` and returns a finite float32 image [h, w] in the units and
within the range of the measured intensities. All commute with a change of the detector's gain and
offset, but for denoisers, which know the dose. `nearest`, `linear` and `biharmonic` keep the
measured pixels as they are. Defaults of parameters are those for scans without noise, pixel by
pixel; `tuned` has those for others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.denoisers import bm3d, non_local_means
from stem_complete.evaluation.thin_plate import plate
from stem_complete.evaluation.unit_scale import Image, fill_nearest, in_units, weights
from stem_complete.scan import PartialScan, blur, encode, spline_fill

Baseline = Callable[..., Image]


def nearest(scan: RasterScan) -> Image:
    """Each pixel takes the intensity of the measured pixel nearest to it (Euclidean distance).

    The fill of the published code's coverage series.
    """
    return in_units(fill_nearest(scan), scan)


def linear(scan: RasterScan) -> Image:
    """Linear interpolation on the Delaunay triangles of the measured pixels.

    Planes are reproduced. Outside the convex hull of the measured pixels, and where they all lie
    on one line, the nearest one is taken.
    """
    from scipy.interpolate import LinearNDInterpolator
    from scipy.ndimage import binary_erosion
    from scipy.spatial import QhullError

    filled = fill_nearest(scan)
    # A measured pixel whose four neighbours are measured too is in no triangle with a gap in it:
    # its Voronoi cell is its own square. Leaving these out saves a third of the time.
    rim = scan.measured & ~binary_erosion(scan.measured)
    gaps = np.argwhere(~scan.measured)
    if len(gaps):
        try:
            interpolate = LinearNDInterpolator(np.argwhere(rim), scan.unit()[rim])
        except QhullError:
            return in_units(filled, scan)
        values = interpolate(gaps)
        inside = np.isfinite(values)
        filled[tuple(gaps[inside].T)] = values[inside]
    return in_units(filled, scan)


def normalised_convolution(
    scan: RasterScan,
    *,
    sigma_pitches: float = 0.2,
    dwell_exponent: float = 0.0,
) -> Image:
    """Local mean of the measured intensities, `G * (w I) / G * w`, with w = dwell^exponent.

    Knutsson and Westin (1993, doi:10.1109/CVPR.1993.341081) with a Gaussian G, cut off at
    4 sigma. Pixels with no measurement that near take the nearest one.

    Args:
        scan: The partial scan.
        sigma_pitches: Width of G in distances between the turns of a spiral, 1 / mean dwell [px].
        dwell_exponent: How much more a long dwell counts than a short one.
    """
    from scipy.ndimage import gaussian_filter

    # Beyond the image's own size, a wider Gaussian changes little and takes for ever.
    sigma_px = min(sigma_pitches / scan.coverage, max(scan.shape))
    weight = weights(scan, dwell_exponent)
    reach = gaussian_filter(weight, sigma_px, mode="constant")
    total = gaussian_filter(weight * scan.unit(), sigma_px, mode="constant")
    # No term is negative, so what is reached is exactly 0 or accurate, however small.
    near = reach > 0
    filled = total / np.where(near, reach, 1.0)
    return in_units(filled if near.all() else np.where(near, filled, fill_nearest(scan)), scan)


def harmonic(
    scan: RasterScan,
    *,
    fidelity: float = 1.0,
    dwell_exponent: float = 0.0,
) -> Image:
    """A membrane that springs pull to the measured pixels: least sum of |grad u|^2 + f w (u - I)^2.

    Five-point Laplacian with no flux through the image border, solved directly.

    Args:
        scan: The partial scan.
        fidelity: Stiffness f of the springs; with `math.inf` the membrane goes through the
            measured pixels, and the Laplacian vanishes in all others (Laplace interpolation).
        dwell_exponent: Exponent in w = dwell^exponent, scaled to a mean of 1 over the measured
            pixels.
    """
    return in_units(
        plate(scan, fidelity=fidelity, dwell_exponent=dwell_exponent, stiffness=0.0), scan
    )


def spline(
    scan: RasterScan,
    *,
    fidelity: float = 10.0,
    dwell_exponent: float = 0.0,
    stiffness: float = 30.0,
    blurred: bool = False,
) -> Image:
    """A plate under tension: least sum of |grad u|^2 + s (laplace u)^2 + f w (u - I)^2.

    Between `harmonic` and `biharmonic` (Wessel and Bercovici 1998, doi:10.1023/A:1021713421882):
    without the cusps of the one and the overshoot of the other. By multigrid, see
    `scan.spline_fill`.

    Args:
        scan: The partial scan.
        fidelity: As for `harmonic`, finite.
        dwell_exponent: As for `harmonic`; a dwell above 1 counts as 1.
        stiffness: Stiffness s of the plate [px^2], at most 40; bends shorter than its square root
            cost most.
        blurred: Whether the image is blurred as the truth is, of which it is then an estimate.
    """
    filled = spline_fill(
        _on_unit_scale(scan),
        fidelity=fidelity,
        dwell_exponent=dwell_exponent,
        stiffness=stiffness,
    )
    filled = blur(filled) if blurred else filled
    return in_units(filled[0, 0].double().numpy(), scan)


def adaptive_spline(scan: RasterScan) -> Image:
    """The spline of the `adaptive` encoding, whose weights follow the scan's own noise.

    With plane waves where the scan is of a lattice; see `scan.encode`.
    """
    first = encode(_on_unit_scale(scan), "adaptive").offset
    return in_units(first[0, 0].double().numpy(), scan)


def total_variation(
    scan: RasterScan,
    *,
    fidelity: float = 10.0,
    dwell_exponent: float = 0.0,
    huber: float = 0.1,
    num_steps: int = 200,
) -> Image:
    """Image of least sum of |grad u| + f/2 w (u - I)^2: even regions with sharp borders.

    Rudin, Osher and Fatemi (1992, doi:10.1016/0167-2789(92)90242-F) with weights, on intensities
    that are scaled to [0, 1]; gradients are forward differences. By the first-order primal-dual
    algorithm of Chambolle and Pock (2011, doi:10.1007/s10851-010-0251-1, algorithm 1 and section
    6.2), from the normalised convolution on. Twice the steps change errors by less than 1/200.

    Args:
        scan: The partial scan.
        fidelity: Weight f of the measured pixels.
        dwell_exponent: Exponent in w = dwell^exponent, scaled to a mean of 1 over the measured
            pixels.
        huber: Slope per px below which gradients are squared instead, as |grad u|^2 / (2 huber):
            no staircases on slopes. 0 is the plain total variation.
        num_steps: Steps of the algorithm.
    """
    values = scan.unit()
    on_unit_scale = RasterScan(np.where(scan.measured, values, np.nan), scan.dwell)
    start = normalised_convolution(on_unit_scale, dwell_exponent=dwell_exponent)
    # The largest steps that converge: their product is 1 / |grad|^2, and that is 8.
    primal_step = 0.2
    dual_step = 1 / (8 * primal_step)
    pull = primal_step * fidelity * torch.from_numpy(weights(scan, dwell_exponent)).float()
    target = pull * torch.from_numpy(values).float()
    share = 1 / (1 + pull)
    # Fresh memory for every step would cost more than the sums: all is done in place.
    u, before, ahead = (torch.from_numpy(start).clone() for _ in range(3))
    slope_x, slope_y, change = (torch.zeros_like(u) for _ in range(3))
    for _ in range(num_steps):
        slope_x[:, :-1].add_(ahead[:, 1:] - ahead[:, :-1], alpha=dual_step)
        slope_y[:-1].add_(ahead[1:] - ahead[:-1], alpha=dual_step)
        length = torch.hypot(slope_x, slope_y, out=change).clamp_(min=1 + dual_step * huber)
        slope_x.div_(length)
        slope_y.div_(length)
        divergence = torch.add(slope_x, slope_y, out=change)
        divergence[:, 1:].sub_(slope_x[:, :-1])
        divergence[1:].sub_(slope_y[:-1])
        u, before = before, u
        torch.add(before, divergence, alpha=primal_step, out=u).add_(target).mul_(share)
        torch.sub(u, before, out=ahead).add_(u)
    return in_units(u.double().numpy(), scan)


def biharmonic(scan: RasterScan) -> Image:
    """The thin plate through the measured pixels: the squared Laplacian vanishes in all others.

    scikit-image's `inpaint_biharmonic` (Damelin and Hoang 2018, doi:10.1155/2018/3950312), which
    cuts off what overshoots the measured range.
    """
    from skimage.restoration import inpaint_biharmonic

    if scan.measured.all():
        return in_units(scan.unit(), scan)
    return in_units(inpaint_biharmonic(scan.unit(), ~scan.measured), scan)


def _on_unit_scale(scan: RasterScan) -> PartialScan:
    arrays = scan.unit().astype(np.float32), scan.dwell
    intensity, dwell = (torch.from_numpy(array)[None, None] for array in arrays)
    return PartialScan(torch.where(dwell > 0, intensity, torch.nan), dwell)


BASELINES: dict[str, Baseline] = {
    "nearest": nearest,
    "linear": linear,
    "normalised_convolution": normalised_convolution,
    "harmonic": harmonic,
    "spline": spline,
    "adaptive_spline": adaptive_spline,
    "total_variation": total_variation,
    "biharmonic": biharmonic,
    "non_local_means": non_local_means,
    "bm3d": bm3d,
}
"""Classical methods by name."""
