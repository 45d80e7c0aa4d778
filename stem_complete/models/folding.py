"""Networks for inference: weight norm and running statistics folded into plain convolutions."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from stem_complete.models.layers import WeightNormConv2d
from stem_complete.models.mean_norm import image_means, subtract_
from stem_complete.models.norms import BatchNorm, LayerNorm

Network = TypeVar("Network", bound=nn.Module)


def fold_norms(network: Network) -> Network:
    """A copy of `network` that computes the same in eval mode, with plain convolutions and biases.

    Its `forward` has the same interface. Layers with "image" means at inference still subtract
    them, and layer norms stay; their weight norm is folded. Structure and parameter names depend on
    how the network was built, not on its weights. Parameters require no gradient.

    Raises:
        ValueError: The network is a single convolution or has none to fold.
    """
    return fold_norms_(copy.deepcopy(network))


def fold_norms_(network: Network) -> Network:
    """`network` itself, folded in place; on the meta device it takes a folded state dict."""
    slots = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, WeightNormConv2d)
    ]
    if not slots:
        raise ValueError(f"{type(network).__name__} holds no WeightNormConv2d to fold")
    for parent, name, layer in slots:
        setattr(parent, name, _fold_layer(layer))
    return network.eval().requires_grad_(False)


class ImageMeanNorm(nn.Module):
    """Subtracts each image's own channel means, then adds a bias `[c]` if there is one."""

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[b, c, h, w]`, changed in place."""
        means = image_means(x)
        return subtract_(x, means if self.bias is None else means - self.bias)


def _fold_layer(layer: WeightNormConv2d) -> nn.Sequential:
    """Convolution, then image means or layer norm and activation, if the layer has them."""
    norm = layer.mean_norm
    modules: list[nn.Module]
    if norm is not None and norm.at_inference == "image":
        bias = None if layer.bias is None else _constant(layer.bias)
        modules = [_convolution(layer, bias=None), ImageMeanNorm(bias)]
    elif isinstance(layer.norm, LayerNorm):
        modules = [_convolution(layer, bias=None), layer.norm]
    else:
        modules = [_convolution(layer, bias=_constant(_shift(layer)))]
    if layer.leaky_slope == 0:
        modules.append(nn.ReLU(inplace=True))
    elif layer.leaky_slope is not None:
        modules.append(nn.LeakyReLU(layer.leaky_slope, inplace=True))
    return nn.Sequential(*modules)


def _shift(layer: WeightNormConv2d) -> Tensor:
    """What bias and running statistics add to each output channel `[out]`."""
    shift = torch.zeros(layer.out_channels, dtype=layer.v.dtype, device=layer.v.device)
    if layer.v.is_meta:
        return shift
    if isinstance(layer.norm, BatchNorm):
        return layer.norm.affine()[1]
    shift = shift if layer.bias is None else shift + layer.bias
    return shift if layer.mean_norm is None else shift - layer.mean_norm.running_mean


class _GivenWeights:
    """Draws no weights. On the meta device torch would load its compiler for that, in a second."""

    def reset_parameters(self) -> None:
        """Leaves them to the caller."""


class _Conv2d(_GivenWeights, nn.Conv2d):
    pass


class _ConvTranspose2d(_GivenWeights, nn.ConvTranspose2d):
    pass


def _convolution(layer: WeightNormConv2d, bias: nn.Parameter | None) -> nn.Module:
    padding = layer.kernel_size // 2
    size = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, padding)
    convolution: nn.Conv2d | nn.ConvTranspose2d
    with torch.device("meta"):
        if layer.transposed:
            convolution = _ConvTranspose2d(*size, output_padding=layer.stride - 1, bias=False)
        else:
            convolution = _Conv2d(*size, bias=False)
    kernel: Tensor = layer.v
    if not layer.v.is_meta:
        kernel = layer.kernel()
        if isinstance(layer.norm, BatchNorm):
            kernel = kernel * layer.per_output_channel(layer.norm.affine()[0])
    convolution.weight = _constant(kernel)
    convolution.bias = bias
    return convolution


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)
