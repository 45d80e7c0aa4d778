"""Batch and layer norm, which also scale: alternatives to the paper's mean norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stem_complete.models.running import DECAY, RunningStatistics

EPSILON = 1e-5  # torch's


class BatchNorm(RunningStatistics):
    """Batch norm of `[b, c, h, w]` (Ioffe and Szegedy 2015, arXiv:1502.03167).

    In training mode mean and variance are those of the batch, over all workers: each has an equal
    share, and one exchange in each direction makes the gradients those of the whole batch, too. In
    eval mode, or once frozen, they are the running ones. Torch's SyncBatchNorm is for GPUs alone,
    and moves its running statistics in the forward pass, those of a bad batch too.

    Args:
        num_channels: Number of channels c.
        decay: Of the running statistics, per step.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, decay: float = DECAY) -> None:
        super().__init__(decay)
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))
        self.register_buffer("pending", torch.zeros(2 * num_channels + 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x`, of mean 0 and variance 1 in each channel, times `weight`, plus `bias`."""
        if not self.training or self.frozen:
            means, variances = self.running_mean, self.running_var
            return F.batch_norm(x, means, variances, self.weight, self.bias, eps=EPSILON)
        normalise = self._over_workers if _num_workers() > 1 else self._alone
        normalised, mean, variance = normalise(x)
        self.pending += torch.cat((mean, variance, torch.ones_like(mean[:1])))
        return normalised

    def _alone(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # With a momentum of 1, what are running statistics to torch are the batch's.
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        normalised = F.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=EPSILON
        )
        return normalised, mean, variance

    def _over_workers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        each: Tensor = _OfAllWorkers.apply(torch.stack((mean, variance)))  # type: ignore[no-untyped-call]
        mean = each[:, 0].mean(0)
        variance = (each[:, 1] + (each[:, 0] - mean).square()).mean(0)
        scale = self.weight * (variance + EPSILON).rsqrt()
        shift = self.bias - mean * scale
        scale, shift = (of_channels.to(x.dtype)[:, None, None] for of_channels in (scale, shift))
        # The running variance is that of all images, of which these are a sample.
        num_pixels = len(each) * x.numel() // x.shape[1]
        unbiased = variance.detach() * (num_pixels / (num_pixels - 1))
        return torch.addcmul(shift, x, scale), mean.detach(), unbiased

    @torch.no_grad()
    def commit(self, pending: Tensor) -> None:
        """See `RunningStatistics.commit`."""
        mean, variance = pending[:-1].chunk(2)
        self.move(self.running_mean, mean, pending[-1])
        self.move(self.running_var, variance, pending[-1])
        self.pending.zero_()

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and summand of each channel in eval mode, [c] each."""
        scale = self.weight * (self.running_var + EPSILON).rsqrt()
        return scale, self.bias - self.running_mean * scale


class LayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of `[b, c, h, w]` (Ba et al. 2016).

    Over the pixels, too, completions would depend on the size of the scan, and large ones could not
    be completed in tiles. ConvNeXt norms like this (Liu et al. 2022, arXiv:2201.03545).
    """

    def forward(self, x: Tensor) -> Tensor:
        """`x`, of mean 0 and variance 1 in each pixel, times `weight`, plus `bias`."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _num_workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _OfAllWorkers(torch.autograd.Function):
    """Tensors of all workers, [workers, ...]; gradients go back to where they came from."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ARG004
        rows = own.new_zeros(_num_workers(), *own.shape)
        rows[dist.get_rank()] = own
        dist.all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]
