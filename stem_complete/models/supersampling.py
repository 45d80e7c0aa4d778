"""Network of the ALRC paper's experiments with CIFAR-10 (section III, fig. 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, RESIDUAL_WIDTH, NUM_BLOCKS = 64, 128, 3


class SupersamplingNetwork(nn.Module):
    """Adds detail to images that were enlarged, [b, 3, h, w] to the same shape.

    A 5x5 convolution to 64 channels, a 3x3 one to 128, three residual blocks of two 3x3
    convolutions each, a 3x3 one back to 64 and a 5x5 one to 3, each followed by ReLU but the last.
    Weights are drawn uniformly (Glorot and Bengio 2010), biases begin at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = _conv(3, WIDTH, 5)
        self.widen = _conv(WIDTH, RESIDUAL_WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(NUM_BLOCKS))
        self.narrow = _conv(RESIDUAL_WIDTH, WIDTH)
        self.last = _conv(WIDTH, 3, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Images with detail, of the shape of `images`."""
        x = torch.relu(self.widen(torch.relu(self.first(images))))
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.last(torch.relu(self.narrow(x)))
        return found


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_conv(RESIDUAL_WIDTH, RESIDUAL_WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return x + change


def _conv(in_channels: int, out_channels: int, size: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, size, padding="same")
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
