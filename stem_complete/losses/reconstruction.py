"""Reconstruction losses of the two stages, one value per example."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def half_size(images: Tensor) -> Tensor:
    """Images at half size by bilinear resizing, [b, c, h/2, w/2], of images [b, c, h, w]."""
    # At factor 2, bilinear resizing with pixel centres aligned is the mean of 2x2 pixels.
    return F.avg_pool2d(images, 2)


def mean_power(completion: Tensor, truth: Tensor, power: int = 2, weight: float = 1.0) -> Tensor:
    """Weighted mean of the errors' even power of each example, [b].

    The ALRC paper has 200 times the mean square for micrographs (section IV), and the mean square
    or fourth power for CIFAR-10 (section III).

    Args:
        completion: Images, [b, ...].
        truth: What they should be, of the same shape.
        power: 2 or 4.
        weight: Factor on the mean.
    """
    if completion.shape != truth.shape:
        raise ValueError(
            f"completion and truth must have one shape, got {tuple(completion.shape)} and "
            f"{tuple(truth.shape)}"
        )
    if power not in (2, 4):
        raise ValueError(f"power must be 2 or 4, got {power}")
    square = (completion.float() - truth.float()).square()
    errors = square if power == 2 else square.square()
    return weight * errors.mean(dim=tuple(range(1, errors.ndim)))


def huberise(loss: Tensor, h: float = 1.0) -> Tensor:
    """`min(L, sqrt(h L))` of each loss (ALRC paper, section I, after Huber 1964).

    Args:
        loss: Losses that are not negative, of any shape.
        h: Loss above which its root is taken.
    """
    if h <= 0:
        raise ValueError(f"h must be positive, got {h}")
    # The root's infinite slope at 0 must not reach the gradient of the branch that is not taken.
    large = loss > h
    return (h * loss.where(large, loss.new_tensor(h))).sqrt().where(large, loss)
