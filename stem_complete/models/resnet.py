"""ResNet-18 for images of 32x32 px, on which the text on network stability experiments.

He et al. 2016, "Deep residual learning for image recognition", section 4.1, with the first layers
of their section 4.2, which leave small images their size.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

FILTERS = (64, 128, 256, 512)
"""Of the four blocks, which are called by them."""

Norm = Callable[[int], nn.Module]
"""Makes the batch norm of so many channels."""


class ResNet18(nn.Module):
    """Logits [b, num_classes] of images [b, 3, h, w].

    A 3x3 convolution; four blocks of two residual pairs of 3x3 convolutions, of which all but the
    first halve the image; the mean over what is left of it; and a linear layer. Kernels are drawn
    normally (He et al. 2015).

    Args:
        num_classes: Of images.
        width: Filters of the first block; each other has twice as many as the one before.
        norm: Of each convolution.

    Attributes:
        blocks: The four, called `block_64` to `block_512` at any width.
    """

    def __init__(
        self, num_classes: int = 10, *, width: int = FILTERS[0], norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        widths = [width, *(width * filters // FILTERS[0] for filters in FILTERS)]
        self.stem = nn.Sequential(_conv(3, width), norm(width), nn.ReLU())
        self.blocks = nn.ModuleDict(
            {
                f"block_{filters}": nn.Sequential(
                    _Pair(before, after, 1 if filters == FILTERS[0] else 2, norm),
                    _Pair(after, after, 1, norm),
                )
                for filters, (before, after) in zip(FILTERS, pairwise(widths), strict=True)
            }
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`."""
        x = self.stem(images)
        for block in self.blocks.values():
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class _Pair(nn.Module):
    """Two convolutions whose output is added to their input."""

    def __init__(self, before: int, after: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(before, after, stride=stride), norm(after)
        self.conv2, self.norm2 = _conv(after, after), norm(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(_conv(before, after, size=1, stride=stride), norm(after))

    def forward(self, x: Tensor) -> Tensor:
        change = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(self.shortcut(x) + change)


def _conv(before: int, after: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
