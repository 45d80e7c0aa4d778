"""The expected error of completions, fitted to validation scans, where the truth is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.inference.error_features import FEATURES, SMALLEST, ErrorFeatures
from stem_complete.inference.error_map import ErrorCalibration, quadratic

Image = NDArray[np.floating[Any]]

_PIXELS_PER_SCAN = 500
_OUTSIDE = 0.005  # fraction of the pixels on either side that a range leaves out
_LEAST_DEVIATION = 0.1
_LOG_SQUARES = (-12.0, 10.0)
_LARGEST_SQUARE = 1e4
# Of the coefficients, in units of one scan. The pixels of a scan share what is wrong with it, so
# that coefficients are as certain as the number of scans makes them. Of 1, 10 and 50, 10 had the
# highest likelihood on fields of view that were left out, for 80 to 480 scans; a little more holds
# what whole scans add to it.
_PENALTY = 13.0
# Of a scan's logarithmic error beside the likelihood of its pixels, which a few scans with large
# errors decide: expected errors of the others were a tenth too high. Of 0, 1 and 10 the errors of
# 212 kinds of scans were expected best with 10, on fields of view that were left out.
_OF_SCANS = 10.0
_NUM_ITERATIONS = 200


def calibrated(completions: Iterable[tuple[ErrorFeatures, Image]]) -> ErrorCalibration | None:
    """The function that best expects the errors of validation completions; None without any.

    Best is the highest likelihood of normal errors with these deviations, on pixels drawn from each
    scan, and of log-normal errors of whole scans, less a penalty on coefficients: few scans give
    little more than a constant.

    Args:
        completions: Features of each one's pixels, and their squared errors in units of the
            features' `unit`, squared [h, w].
    """
    features, squares, reaches, of_nothing, of_scans = [], [], [], [], []
    generator = torch.Generator().manual_seed(0)
    for each, error in completions:
        places = torch.randint(error.size, (_PIXELS_PER_SCAN,), generator=generator)
        of_pixels = each.of_pixels().flatten(1)[:, places]
        of_scan = each.of_scan[:, None].expand(-1, len(places))
        features.append(torch.cat([of_scan, of_pixels]))
        square = torch.from_numpy(np.asarray(error, np.float64)).flatten()
        squares.append(square[places])
        reaches.append(each.reach().flatten()[places])
        of_nothing.append((each.std / each.unit) ** 2)
        of_scans.append(square.mean())
    if not features:
        return None
    reach, far = torch.stack(reaches).double(), torch.tensor(of_nothing, dtype=torch.float64)
    of_scan = torch.stack(of_scans).clamp(min=SMALLEST**2).log()
    inputs = torch.cat(features, 1).double()
    square = torch.cat(squares).clamp(max=_LARGEST_SQUARE)
    low, high = _range_of(inputs)
    mean = inputs.mean(1, keepdim=True)
    deviation = inputs.std(1, keepdim=True).clamp(min=_LEAST_DEVIATION)
    x = (inputs.maximum(low).minimum(high) - mean) / deviation

    num = len(FEATURES)
    slopes = torch.zeros(num, dtype=torch.float64, requires_grad=True)
    curvatures = torch.zeros(num, num, dtype=torch.float64, requires_grad=True)
    constant = square.mean().clamp(min=1e-6).log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [slopes, curvatures, constant], max_iter=_NUM_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_square = quadratic(x, slopes, curvatures, constant).clamp(*_LOG_SQUARES)
        likelihood = (log_square + square * (-log_square).exp()).mean() / 2
        near = reach * log_square.exp().view_as(reach)
        off = (near + (1 - reach) * far[:, None]).mean(1).log() - of_scan
        size = slopes.square().sum() + curvatures.square().sum()
        total: Tensor = likelihood + _OF_SCANS * (off / 2).square().mean() / 2
        total = total + _PENALTY / len(features) * size / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        least, most = _range_of(quadratic(x, slopes, curvatures, constant).clamp(*_LOG_SQUARES))
    return ErrorCalibration(
        means=tuple(mean.flatten().tolist()),
        deviations=tuple(deviation.flatten().tolist()),
        lowest=tuple(low.flatten().tolist()),
        highest=tuple(high.flatten().tolist()),
        slopes=tuple(slopes.tolist()),
        curvatures=tuple(map(tuple, curvatures.tolist())),
        constant=constant.item(),
        least=least.item(),
        most=most.item(),
        num_images=len(features),
    )


def _range_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of the range [..., 1] of values [..., n], but for a few on either side."""
    ends = np.quantile(values.numpy(), [_OUTSIDE, 1 - _OUTSIDE], axis=-1, keepdims=True)
    low, high = torch.from_numpy(ends)
    return low, high
