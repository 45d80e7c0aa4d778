"""ResNet-18 for small images."""

from __future__ import annotations

import pytest
import torch

from stem_complete.models import ResNet18


def num_weights(width):
    """Convolutions, batch norms (2 a channel), and the linear layer."""
    widths = [width * 2**k for k in range(4)]
    first = 4 * 9 * width**2
    others = [9 * c * c // 2 + 3 * 9 * c * c + c * c // 2 for c in widths[1:]]
    norms = 2 * 5 * sum(widths)
    return 27 * width + first + sum(others) + norms + 10 * widths[-1] + 10


def test_it_has_as_many_weights_as_the_papers_layers():
    assert num_weights(64) == 11_173_962  # ResNet-18 for CIFAR-10, as it is commonly quoted
    assert sum(p.numel() for p in ResNet18(width=8).parameters()) == num_weights(8)


@pytest.mark.parametrize("size", [32, 16])
def test_each_block_but_the_first_halves_the_image_and_doubles_the_filters(size):
    network = ResNet18(7, width=2)
    x = network.stem(torch.zeros(1, 3, size, size))
    shapes = {}
    for name, block in network.blocks.items():
        x = block(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes == {
        "block_64": (2, size, size),
        "block_128": (4, size // 2, size // 2),
        "block_256": (8, size // 4, size // 4),
        "block_512": (16, size // 8, size // 8),
    }
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 7)
