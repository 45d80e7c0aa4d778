"""The network of the ALRC paper's fig. 2."""

import torch

from stem_complete.models import SupersamplingNetwork


def test_its_layers_are_the_papers():
    shapes = [tuple(p.shape) for p in SupersamplingNetwork().parameters() if p.ndim == 4]
    block = [(128, 128, 3, 3)] * 2
    assert shapes == [
        (64, 3, 5, 5),
        (128, 64, 3, 3),
        *(3 * block),
        (64, 128, 3, 3),
        (3, 64, 5, 5),
    ]


def test_it_begins_with_glorots_weights_and_no_biases():
    for name, parameter in SupersamplingNetwork().named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        else:
            out, into, height, width = parameter.shape
            limit = (6 / ((into + out) * height * width)) ** 0.5
            assert 0.95 * limit < parameter.abs().max() <= limit


def test_blocks_add_to_what_they_are_given():
    network = SupersamplingNetwork()
    for block in network.blocks:
        torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 8, 8)
    alone = torch.relu(network.widen(torch.relu(network.first(x))))
    torch.testing.assert_close(network(x), network.last(torch.relu(network.narrow(alone))))
