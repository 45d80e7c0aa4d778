"""More of a completion than how far it is from the truth: resolution, gaps, atom columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation.atom_columns import column_errors, find_columns, spacing_px
from stem_complete.evaluation.gaps import bins_of, rmse_by_bin
from stem_complete.evaluation.known_scans import KnownScan
from stem_complete.evaluation.report import Details
from stem_complete.evaluation.resolution import (
    ONE_SEVENTH,
    half_bit,
    resolution_px,
    ring_correlation,
)
from stem_complete.vocabulary import INTENSITY_RANGE


class Examiner:
    """Looks at completions of one scan.

    Args:
        scan: The scan.
        atom_columns: Whether columns are looked for, if the crop shows a lattice.
    """

    def __init__(self, scan: KnownScan, *, atom_columns: bool = False) -> None:
        self.scan = scan
        self._bins = bins_of(scan.partial.measured)
        self._spacing = spacing_px(scan.unblurred) if atom_columns else None
        if self._spacing is not None:
            self._columns = find_columns(scan.unblurred, self._spacing)
            if not len(self._columns):
                self._spacing = None

    def details(self, image: NDArray[np.floating]) -> Details:
        """What is found of a completion [h, w].

        Resolution and columns are those of the unblurred crop, as they tell of the specimen: the
        blur of 5x5 px leaves columns where they are, but inverts the contrast of periods below
        5 px, which no completion of it resolves. Errors are against the blurred one, as those of
        rows.
        """
        low, high = INTENSITY_RANGE
        found = ring_correlation(self.scan.unblurred, image)
        details = Details(
            frc=tuple(found.correlation.tolist()),
            resolution_px=resolution_px(found, ONE_SEVENTH),
            half_bit_resolution_px=resolution_px(found, half_bit(found.num_independent)),
            rmse_by_distance=rmse_by_bin((image - self.scan.truth) / (high - low), self._bins),
        )
        if self._spacing is None:
            return details
        columns = find_columns(image, self._spacing)
        errors = column_errors(self._columns, columns, self._spacing)
        return details._replace(
            num_columns=errors.num, columns_found=errors.found, column_error_px=errors.rms_px
        )
