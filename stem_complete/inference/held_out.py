"""Held-out parts of a scan, completed from the rest: what they say of a model's completion."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.data.scans import RasterScan
from stem_complete.inference.measured_pixels import noise_of_measurements
from stem_complete.inference.predictor import Predictor
from stem_complete.inference.scaled_scans import ScaledScans, scaled
from stem_complete.inference.self_check import LEAST_PIXELS, TOO_LITTLE, SelfCheck, judge
from stem_complete.scan import CORRECTED
from stem_complete.scan.parts import gaps, held_out_blocks

# Pixels this near to the border of a block share samples with the rest, by the probe's width.
_SHARED_PX = 2
_SMALLEST_BLOCK_PX = 8.0

_SINGLES = 0.1  # fraction of the pixels
_SAME_DWELL = 1e-3  # largest relative difference of dwells that count as the same


def check_blocks(predictor: Predictor, scan: RasterScan) -> SelfCheck:
    """What held-out blocks say. Of images there is only what is needed, as scans are large."""
    rest, held = hold_out(scan)
    if rest is None:
        return TOO_LITTLE
    scaled_rest = scaled([rest])
    del rest
    found = predictor.with_first(scaled_rest)
    completed, first = _at(held, found.images, scaled_rest)
    corrects = predictor.card.encoding in CORRECTED
    measured, dwell = scan.intensity[held], scan.dwell[held]
    check = judge(measured, dwell, completed, first if corrects else None)
    if predictor.card.calibration is None or math.isnan(check.error):
        return check
    trusted = found.images[:, 1:].lerp(found.images[:, :1], check.trust)
    found = found._replace(images=trusted)
    (completed,) = _at(held, trusted, scaled_rest)
    expected = predictor.expected_error(trusted, scaled_rest, found)[held]
    return check.expecting(
        measured - completed,
        dwell.astype(np.float64),
        expected.astype(np.float64),
        noise_of_measurements(scaled_rest, found.parts),
    )


def check_pixels(predictor: Predictor, scan: RasterScan, check: SelfCheck) -> SelfCheck:
    """The check with how closely single held-out pixels are to be followed."""
    rest, held = hold_out_pixels(scan)
    if rest is None:
        return check
    scaled_rest = scaled([rest])
    del rest
    found = predictor.judged([check], scaled_rest)
    expected = None
    if predictor.card.calibration is not None:
        expected = predictor.expected_error(found.images, scaled_rest, found)[held]
    (completed,) = _at(held, found.images, scaled_rest)
    del found
    (interpolated,) = _at(held, predictor.interpolated(scaled_rest), scaled_rest)
    return check.followed(scan.intensity[held] - completed, interpolated - completed, expected)


def hold_out(scan: RasterScan) -> tuple[RasterScan | None, NDArray[np.bool_]]:
    """A scan without its held-out blocks, and what is judged of these [h, w].

    The scan is None if nothing is left of it.
    """
    dwell = torch.from_numpy(scan.dwell)[None, None]
    _, gap = gaps(dwell)
    blocks = held_out_blocks(scan.shape, gap, smallest_px=_SMALLEST_BLOCK_PX)
    inner = -torch.nn.functional.max_pool2d(-blocks, 2 * _SHARED_PX + 1, 1, _SHARED_PX)
    held, judged = (mask[0, 0].numpy() > 0 for mask in (blocks, inner))
    judged &= scan.measured
    if not (scan.measured & ~held).any():
        return None, judged
    return _without(scan, held), judged


def hold_out_pixels(scan: RasterScan) -> tuple[RasterScan | None, NDArray[np.bool_]]:
    """A scan without a tenth of its pixels, drawn at random, and where these are [h, w].

    The scan is None if neighbouring pixels share samples, so that dwells differ, or if there are
    too few.
    """
    dwell = scan.dwell[scan.measured]
    held = scan.measured & (np.random.default_rng(0).random(scan.shape) < _SINGLES)
    if held.sum() < LEAST_PIXELS or np.ptp(dwell) > _SAME_DWELL * dwell.max():
        return None, held
    return _without(scan, held), held


def _at(places: NDArray[np.bool_], images: Tensor, scan: ScaledScans) -> NDArray[np.float64]:
    """Images [1, c, h, w] of one scan at these pixels [c, n], in its units."""
    found = images[:, :, torch.from_numpy(places)]
    return scan.in_units(found[..., None])[0, ..., 0]


def _without(scan: RasterScan, held: NDArray[np.bool_]) -> RasterScan:
    return RasterScan(
        np.where(held, np.nan, scan.intensity),
        np.where(held, 0, scan.dwell),
        intensity_range=scan.intensity_range,
        where=scan.where,
    )
