"""Batch norm over the examples of all workers, whose running statistics take no bad step.

torch's SyncBatchNorm needs GPUs, and neither it nor BatchNorm can leave out a step that is skipped.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stem_complete.distributed import all_reduce_sum_with_gradient, world_size

EPSILON = 1e-5
MOMENTUM = 0.1
"""Weight of a step in the running statistics; both as in torch."""


class BatchNorm(nn.Module):
    """Standardises the channels of features [b, c, h, w] over the micro-batches of all workers.

    Each worker has as many examples. So a run is the same with any number of workers, as long as
    their micro-batches are together as large. Ioffe and Szegedy 2015, algorithm 1.

    Args:
        channels: c.
    """

    running_mean: Tensor
    running_variance: Tensor
    pending: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))
        # Sums over micro-batches: means, variances, and how many they are, in each channel.
        self.register_buffer("pending", torch.zeros(3, channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features; in evaluation mode by the running statistics."""
        if not self.training:
            running = self.running_mean, self.running_variance
            return F.batch_norm(x, *running, self.weight, self.bias, eps=EPSILON)
        standardised, mean, variance = (
            self._alone(x) if world_size() == 1 else self._over_workers(x)
        )
        self.pending += torch.stack((mean, variance, torch.ones_like(mean)))
        return standardised

    def _alone(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # With a momentum of 1, what are running statistics to torch are the batch's.
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_mean)
        standardised = F.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=EPSILON
        )
        return standardised, mean, variance

    def _over_workers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = world_size() * x.numel() // x.shape[1]
        # Near the mean, squares less the square of the mean lose no digits.
        near = x - _on_pixels(self.running_mean)
        own = torch.stack((near.sum((0, 2, 3)), near.square().sum((0, 2, 3))))
        mean, square = all_reduce_sum_with_gradient(own) / count
        variance = square - mean.square()
        scale = self.weight * (variance + EPSILON).rsqrt()
        standardised = (near - _on_pixels(mean)) * _on_pixels(scale) + _on_pixels(self.bias)
        unbiased = variance.detach() * (count / (count - 1))
        return standardised, mean.detach() + self.running_mean, unbiased

    def commit(self, usable: Tensor) -> None:
        """Moves the running statistics towards those of the step, if `usable`, []."""
        mean, variance, number = self.pending
        for running, sums in ((self.running_mean, mean), (self.running_variance, variance)):
            moved = running.lerp(sums / number, MOMENTUM)
            running.copy_(torch.where(usable & (number > 0), moved, running))
        self.pending.zero_()


def _on_pixels(of_channels: Tensor) -> Tensor:
    return of_channels[:, None, None]
