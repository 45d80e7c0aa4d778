"""What a network says, as a completion: in intensity units, and within bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from stem_complete.scan.network_input import NetworkInput

LIMIT = 5.0
"""Largest correction of a pixel, in units of what the first completion is likely to err: one in a
thousand pixels of validation scans needs more than 4."""

RMS_LIMIT = 1.5
"""Largest root mean square correction of an image, in the same units."""

SCATTER = 0.12
"""Root mean square correction, in the same units, half of which is a trained network's own scatter.

Dense scans of smooth specimens are completed far better than what is held out of them suggests, and
small corrections spoil them. Of 420 validation scans, most of them of blurred micrographs, some
became better by up to a third, and none worse by more than a tenth.
"""


def to_completion(output: Tensor, encoded: NetworkInput) -> Tensor:
    """Completion `[b, 1, h, w]` in intensity units of a network's output, which it bounds.

    Args:
        output: What the network made of `encoded.x`, `[b, 1, h, w]`.
        encoded: Its input; of an output at half size, `encoded.at_half_size()`.
    """
    correction = bounded_correction(output, encoded)
    if encoded.bound is not None:
        correction = correction * rms_factor(correction.square().mean((1, 2, 3), keepdim=True))
    return corrected(correction, encoded)


def bounded_correction(output: Tensor, encoded: NetworkInput) -> Tensor:
    """A network's output within the bounds of each pixel, in units of the likely error."""
    if encoded.bound is None:
        return output
    return encoded.bound.reach * LIMIT * torch.tanh(output / LIMIT)


def rms_factor(mean_square: Tensor) -> Tensor:
    """Factor on a correction that keeps its root mean square below the limit `[b, 1, 1, 1]`."""
    # The smallest square keeps the gradient finite where there is nothing to correct.
    return (RMS_LIMIT / mean_square.clamp(min=1e-6).sqrt()).clamp(max=1)


def credible_share(mean_square: Tensor) -> Tensor:
    """Share of a trained network's correction that is not its own scatter `[b, 1, 1, 1]`.

    Not for training, which begins without corrections.
    """
    return mean_square.square() / (mean_square.square() + SCATTER**4)


def corrected(correction: Tensor, encoded: NetworkInput) -> Tensor:
    """Completion `[b, 1, h, w]` in intensity units, within the range of the measurements."""
    unbounded = encoded.offset + encoded.scale * correction
    if encoded.bound is None:
        return unbounded
    return unbounded.maximum(encoded.bound.lowest).minimum(encoded.bound.highest)
