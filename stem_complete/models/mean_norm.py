"""Mean-only batch normalisation without communication between workers in the forward pass.

Salimans and Kingma 2016 (arXiv:1602.07868, section 4) subtract the channel means of the minibatch.
Here the channel means of each image are subtracted: at the papers' batch size of 1 that is the
same, at others it makes a step independent of how its batch is divided into workers and
micro-batches. Running means are updated once per optimizer step, from sums over all workers.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from stem_complete.models.running import RunningStatistics
from stem_complete.vocabulary import MeanNormAtInference


class MeanNorm(RunningStatistics):
    """Subtracts channel means from `[b, c, h, w]`.

    In training mode these are the image's own, with gradient; in eval mode, or once frozen, the
    running ones. `forward` does not change the running means: it adds image means and their number
    to `pending` [c + 1], which `commit` moves into the running means.

    Args:
        num_channels: Number of channels c.
        at_inference: "running" as above. "image" always subtracts the image's own means, as the
            published code does; freezing then changes only the running means, which are not used.
    """

    running_mean: Tensor

    def __init__(self, num_channels: int, at_inference: MeanNormAtInference = "running") -> None:
        super().__init__()
        if at_inference not in get_args(MeanNormAtInference):
            raise ValueError(f"at_inference must be 'running' or 'image', got {at_inference!r}")
        self.at_inference = at_inference
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("pending", torch.zeros(num_channels + 1), persistent=False)

    @property
    def uses_image_means(self) -> bool:
        """Whether `forward` now subtracts the image's own means, not the running ones."""
        return self.at_inference == "image" or (self.training and not self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[b, c, h, w]` minus channel means; in place where the means are the image's own."""
        if not self.uses_image_means:
            return x - self.running_mean[:, None, None].to(x.dtype)
        centred, means = _centred(x)
        if self.training and not self.frozen:
            self.pending[:-1] += means.sum(0)
            self.pending[-1] += len(means)
        return centred

    @torch.no_grad()
    def commit(self, pending: Tensor) -> None:
        """See `RunningStatistics.commit`; `pending` holds sums of channel means of images."""
        self.move(self.running_mean, pending[:-1], pending[-1])
        self.pending.zero_()


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` minus its channel means, in place, and the means [b, c] without gradient."""
    if torch.compiler.is_compiling():  # the compiler fuses this by itself
        means = image_means(x)
        return x - means[:, :, None, None].to(x.dtype), means.detach()
    centred, means = _Centre.apply(x)  # type: ignore[no-untyped-call]
    return centred, means


class _Centre(torch.autograd.Function):
    """Images minus their channel means, and the means; gradients are centred in the same way.

    Autograd would expand the gradient of the means to a full-resolution tensor and add that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        means = image_means(x)
        ctx.mark_dirty(x)  # full-resolution tensors are large, and the caller does not reuse `x`
        ctx.mark_non_differentiable(means)
        return subtract_(x, means), means

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:  # noqa: ARG004
        means = gradient.sum((2, 3)) / gradient[0, 0].numel()
        return subtract_(gradient.clone(), means)


def subtract_(x: Tensor, means: Tensor) -> Tensor:
    """`x` `[b, c, h, w]` minus `means` `[b, c]`, in place."""
    means = means.to(x.dtype)
    if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
        # By whole rows: CPUs are up to ten times slower by pixels of few channels.
        b, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).view(b, h, w * c)
        rows -= means.repeat(1, w)[:, None]
        return x
    return x.sub_(means[:, :, None, None])


def image_means(x: Tensor) -> Tensor:
    """Channel means `[b, c]` of each image of `[b, c, h, w]`, in float32 or better."""
    return x.sum((2, 3), dtype=torch.promote_types(x.dtype, torch.float32)) / x[0, 0].numel()
