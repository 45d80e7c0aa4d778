"""Reconstruction losses of the two stages, one value per example."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def half_size(images: Tensor) -> Tensor:
    """Images at half size by bilinear resizing, [b, c, h/2, w/2], of images [b, c, h, w]."""
    # At factor 2, bilinear resizing with pixel centres aligned is the mean of 2x2 pixels.
    return F.avg_pool2d(images, 2)


def squared_error(completion: Tensor, truth: Tensor, weight: float = 200.0) -> Tensor:
    """Weighted mean squared error of each example, [b] (ALRC paper, section IV; weight 200).

    Args:
        completion: Completed images in [-1, 1], [b, 1, h, w].
        truth: Blurred micrographs in [-1, 1], of the same shape.
        weight: Factor on the mean squared error.
    """
    if completion.shape != truth.shape:
        raise ValueError(
            f"completion and truth must have one shape, got {tuple(completion.shape)} and "
            f"{tuple(truth.shape)}"
        )
    return weight * (completion.float() - truth.float()).square().mean(dim=(1, 2, 3))


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
