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


def to_completion(output: Tensor, encoded: NetworkInput) -> Tensor:
    """Completion `[b, 1, h, w]` in intensity units of a network's output, which it bounds.

    Args:
        output: What the network made of `encoded.x`, `[b, 1, h, w]`.
        encoded: Its input; of an output at half size, `encoded.at_half_size()`.
    """
    if encoded.bound is None:
        return encoded.offset + encoded.scale * output
    correction = encoded.bound.reach * LIMIT * torch.tanh(output / LIMIT)
    # The smallest square keeps the gradient finite where there is nothing to correct.
    square = correction.square().mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
    correction = correction * (RMS_LIMIT / square.sqrt()).clamp(max=1)
    unbounded = encoded.offset + encoded.scale * correction
    return unbounded.maximum(encoded.bound.lowest).minimum(encoded.bound.highest)
