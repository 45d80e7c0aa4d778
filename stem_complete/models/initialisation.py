"""Data-dependent initialisation (Salimans and Kingma 2016, arXiv:1602.07868, section 3)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from stem_complete.models.layers import WeightNormConv2d
from stem_complete.models.mean_norm import image_means
from stem_complete.models.norms import BatchNorm
from stem_complete.models.running import running_norms

SMALLEST_STD = 1e-6  # channels of a smaller deviation are dead on this data and keep their scale


@torch.no_grad()
def initialise(
    network: nn.Module, x: Tensor, *, output_std: float = 1.0, branch_std: float = 1.0
) -> None:
    """Scales all layers so that their pre-activations on `x` have mean 0 and standard deviation 1.

    One forward pass in training mode fits each layer to its input before applying it: `g` becomes
    `1/std` and the running means `mean/std` of the pre-activations at `g = 1` (layers without
    weight norm scale `v`). Layers without mean norm set their bias to `-mean/std`; without a bias
    they keep their mean.

    With one image this holds in training and eval mode. With several it holds in training mode,
    which subtracts each image's own means: deviations are from those. Batch and layer norms see
    such values, too, beside which their epsilon is small.

    Args:
        network: Changed in place; its training mode is kept.
        x: Input of the network, `[b, c, h, w]`.
        output_std: Standard deviation of the images that the network returns, instead of 1.
        branch_std: Standard deviation of what each branch adds to its skip, instead of 1. With
            small ones a network starts as a shallow one, which learns simple things sooner (De and
            Smith 2020, arXiv:2002.10444).
    """
    was_training = network.training
    layers = [module for module in network.modules() if isinstance(module, WeightNormConv2d)]
    hooks = [
        layer.register_forward_pre_hook(
            partial(_fit_to_input, branch_std if layer.ends_branch else 1)
        )
        for layer in layers
    ]
    try:
        network.train()(x)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    for norm in running_norms(network):
        norm.pending.zero_()
    for layer in layers:
        if layer.leaky_slope is None and layer.g is not None:
            layer.g.mul_(output_std)


def _fit_to_input(std_wanted: float, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(layer, WeightNormConv2d)
    y = layer.convolve(*inputs)
    means = image_means(y)
    mean = means.mean(0)
    centre = mean.expand_as(means) if layer.mean_norm is None else means
    std = (y - centre[:, :, None, None]).square().mean((0, 2, 3)).sqrt()
    scale = torch.where(std > SMALLEST_STD, 1 / std, 1.0)
    if layer.norm is not None:
        layer.norm.weight.fill_(std_wanted)
    else:
        scale *= std_wanted
    if layer.g is not None:
        layer.g.mul_(scale)
    else:
        layer.v.mul_(layer.per_output_channel(scale))
    if isinstance(layer.norm, BatchNorm):
        layer.norm.running_mean.copy_(mean * scale)
        layer.norm.running_var.copy_((std * scale).square())
    if layer.mean_norm is not None:
        layer.mean_norm.running_mean.copy_(mean * scale)
    if layer.bias is not None:
        layer.bias.copy_(torch.zeros_like(mean) if layer.mean_norm is not None else -mean * scale)
