"""Denoisers of dense scans, which a spline fills first: non-local means and BM3D.

Counts of electrons vary by their root. Anscombe's transform (1948, doi:10.1093/biomet/35.3-4.246)
makes that variance 1 everywhere, as both methods expect; its exact unbiased inverse is the closed
form of Makitalo and Foi (2011, doi:10.1109/TIP.2011.2121085).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.unit_scale import Image, in_units
from stem_complete.scan import PartialScan, blur, spline_fill
from stem_complete.vocabulary import INTENSITY_RANGE

_FILL = {"fidelity": 1.0, "dwell_exponent": 1.0, "stiffness": 4.0}
"""Of the spline that fills gaps, which smooths but little of what was measured."""

_PATCH_PX, _SEARCH_PX = 9, 8  # of non-local means: side of its patches, and how far it looks


def non_local_means(
    scan: RasterScan,
    *,
    dose_electrons_per_px: float = 100.0,
    filtering: float = 0.3,
    noise_std: float = 0.0,
    blurred: bool = False,
) -> Image:
    """Means over pixels with similar surroundings (Buades et al. 2005, doi:10.1109/CVPR.2005.38).

    scikit-image's `denoise_nl_means` on patches of 9 px, found within 8 px.

    Args:
        scan: A dense scan in units in which the specimen is [-1, 1], if it has no range.
        dose_electrons_per_px: Electrons over a full pixel dwell at the highest intensity.
        filtering: Distance of patches that are alike, in units of the stabilised counts' noise.
        noise_std: Standard deviation of white noise that patches are expected to differ by, in the
            same units; 0 where neighbours share theirs, as along a path.
        blurred: Whether the image is blurred as the truth is, of which it is then an estimate.
    """
    from skimage.restoration import denoise_nl_means

    counts = _Counts(scan, dose_electrons_per_px)
    roots = denoise_nl_means(
        counts.stabilised(),
        patch_size=_PATCH_PX,
        patch_distance=_SEARCH_PX,
        h=filtering,
        sigma=noise_std,
        fast_mode=True,
    )
    return counts.intensity(roots, blurred=blurred)


def bm3d(
    scan: RasterScan,
    *,
    dose_electrons_per_px: float = 100.0,
    strength: float = 1.0,
    blurred: bool = False,
) -> Image:
    """Collaborative filtering of similar blocks (Dabov et al. 2007, doi:10.1109/TIP.2007.901238).

    By its authors' package `bm3d`, an extra, as its licence allows non-commercial use only. Takes
    20 s on 512 px.

    Args:
        scan: As for `non_local_means`.
        dose_electrons_per_px: As for `non_local_means`.
        strength: Standard deviation of the noise, in units of that of the stabilised counts.
        blurred: As for `non_local_means`.
    """
    from bm3d import bm3d as denoise

    counts = _Counts(scan, dose_electrons_per_px)
    return counts.intensity(np.squeeze(denoise(counts.stabilised(), strength)), blurred=blurred)


class _Counts:
    """A scan's counts of electrons, each pixel's over the mean dwell of a measured one."""

    def __init__(self, scan: RasterScan, dose_electrons_per_px: float) -> None:
        self.scan = scan
        low, high = scan.intensity_range or INTENSITY_RANGE
        self.low, self.high = low, high
        self.most = dose_electrons_per_px * float(scan.dwell[scan.measured].mean())

    def stabilised(self) -> NDArray[np.float64]:
        """Counts [h, w] of variance 1, with gaps filled."""
        scan = self.scan
        counts = self.most * (scan.intensity - self.low) / (self.high - self.low)
        roots = 2 * np.sqrt(np.maximum(counts, 0) + 3 / 8)
        arrays = roots.astype(np.float32), scan.dwell
        partial = PartialScan(*(torch.from_numpy(array)[None, None] for array in arrays))
        filled = partial.intensity if scan.measured.all() else spline_fill(partial, **_FILL)
        image: NDArray[np.float64] = filled[0, 0].double().numpy()
        return image

    def intensity(self, roots: NDArray[np.float64], *, blurred: bool) -> Image:
        """Images [h, w] of stabilised counts, in the units and within the range of the scan."""
        d = np.maximum(roots, 2 * np.sqrt(3 / 8))
        counts = d**2 / 4 + np.sqrt(3 / 2) / 4 / d - 11 / 8 / d**2 + 5 * np.sqrt(3 / 2) / 8 / d**3
        fraction = np.maximum(counts - 1 / 8, 0) / self.most
        image = self.low + (self.high - self.low) * fraction
        if blurred:
            image = blur(torch.from_numpy(image)[None, None])[0, 0].numpy()
        least, most = self.scan.measured_range
        return in_units((image - least) / (most - least or 1), self.scan)
