"""The convolution of all networks: weight normalised, mean (batch, layer) normalised, rectified.

Weight normalisation: Salimans and Kingma 2016, arXiv:1602.07868, eq. 2.
"""

from __future__ import annotations

from typing import TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stem_complete.models.mean_norm import MeanNorm
from stem_complete.models.norms import BatchNorm, LayerNorm
from stem_complete.vocabulary import MeanNormAtInference, Norm

WEIGHT_STD = 0.05  # ALRC paper, section IV


class LayerOptions(TypedDict, total=False):
    """Keyword arguments that all convolutions of a network share, see `WeightNormConv2d`."""

    norm: Norm
    bias: bool
    leaky_slope: float
    mean_norm_at_inference: MeanNormAtInference
    norm_per_input_channel: bool


class WeightNormConv2d(nn.Module):
    """Convolution with kernel `g v / |v|`, then a norm, bias and (leaky) ReLU.

    Padding keeps the size at stride 1; stride s divides it by s, or multiplies it if transposed.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; `g` and `bias` have one value for each.
        kernel_size: Odd [px].
        stride: [px].
        transposed: Upsamples; `v` is then `[in, out, k, k]`, as in `nn.ConvTranspose2d`.
        weight_norm: Without it the kernel is `v` itself and there is no `g`.
        norm: "mean" subtracts channel means, see `MeanNorm`; "batch" and "layer" also scale, so
            that they need no weight norm, and have a bias of their own; "none" does neither.
        bias: Adds a bias after the mean norm (Salimans and Kingma, eq. 11).
        leaky_slope: Slope of negative values; 0 is ReLU, None no activation.
        mean_norm_at_inference: "running" or "image", see `MeanNorm`.
        norm_per_input_channel: In transposed kernels, `|v|` is over all dimensions but the input
            channel, as in the published code. The paper's is over all but the output channel.

    Attributes:
        ends_branch: Whether the layer is the last of a branch beside a skip, see `initialise`.
    """

    ends_branch = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        transposed: bool = False,
        weight_norm: bool = True,
        norm: Norm = "mean",
        bias: bool = False,
        leaky_slope: float | None = 0.0,
        mean_norm_at_inference: MeanNormAtInference = "running",
        norm_per_input_channel: bool = False,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, kernel_size, stride) < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "channels and stride must be positive and kernel_size odd, got "
                f"{in_channels} -> {out_channels}, kernel_size {kernel_size}, stride {stride}"
            )
        if leaky_slope is not None and not 0 <= leaky_slope <= 1:
            raise ValueError(f"leaky_slope must be in [0, 1] or None, got {leaky_slope}")
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.transposed = kernel_size, stride, transposed
        self.leaky_slope = leaky_slope
        self.out_dim = 1 if transposed else 0
        self.norm_per_input_channel = transposed and norm_per_input_channel
        kept_dim = 1 - self.out_dim if self.norm_per_input_channel else self.out_dim
        self.norm_dims = tuple(dim for dim in range(4) if dim != kept_dim)

        channels = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.v = nn.Parameter(torch.empty(*channels, kernel_size, kernel_size))
        scales = norm in ("batch", "layer")
        self.g = nn.Parameter(torch.ones(out_channels)) if weight_norm and not scales else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias and not scales else None
        self.mean_norm = MeanNorm(out_channels, mean_norm_at_inference) if norm == "mean" else None
        self.norm: BatchNorm | LayerNorm | None = None
        if scales:
            self.norm = (BatchNorm if norm == "batch" else LayerNorm)(out_channels)
        if not self.v.is_meta:  # where torch would load its compiler, in a second, to draw nothing
            nn.init.normal_(self.v, 0.0, WEIGHT_STD)

    def kernel(self) -> Tensor:
        """`g v / |v|`, in the layout of `v`."""
        if self.g is None:
            return self.v
        if self.norm_per_input_channel:
            norm: Tensor = torch.linalg.vector_norm(self.v, dim=self.norm_dims, keepdim=True)
            return self.v * (self.per_output_channel(self.g) / norm)
        # Torch's own parametrization calls this too. It reads the kernel only once if `dim` is the
        # first or the last in memory, as output channels are in channels-last kernels.
        dim = 3 if self.transposed else 0
        shape = [-1 if d == dim else 1 for d in range(4)]
        v = self.v.permute(0, 2, 3, 1)
        kernel = torch._weight_norm(v, self.g.view(shape), dim)  # noqa: SLF001
        return kernel.permute(0, 3, 1, 2)

    def per_output_channel(self, values: Tensor) -> Tensor:
        """`values` `[out]`, shaped so that they broadcast over the kernel."""
        shape = [1, 1, 1, 1]
        shape[self.out_dim] = -1
        return values.view(shape)

    def convolve(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Convolution of `x` with the kernel, plus a `shift` `[out]` per channel."""
        padding = self.kernel_size // 2
        if self.transposed:
            return F.conv_transpose2d(
                x, self.kernel(), shift, self.stride, padding, output_padding=self.stride - 1
            )
        return F.conv2d(x, self.kernel(), shift, self.stride, padding)

    def pre_activation(self, x: Tensor) -> Tensor:
        """Normalised convolution `[b, out, h, w]`, before the activation."""
        if self.norm is not None:
            normalised: Tensor = self.norm(self.convolve(x))
            return normalised
        if self.mean_norm is None:
            return self.convolve(x, self.bias)
        if self.mean_norm.uses_image_means:
            centred: Tensor = self.mean_norm(self.convolve(x))
            return centred if self.bias is None else centred.add_(self.bias[:, None, None])
        # Running means are known beforehand, so the convolution subtracts them at no cost.
        running_mean = self.mean_norm.running_mean
        return self.convolve(x, -running_mean if self.bias is None else self.bias - running_mean)

    def forward(self, x: Tensor) -> Tensor:
        """Activations `[b, out, h, w]` of `x` `[b, in, h, w]`."""
        y = self.pre_activation(x)
        if self.leaky_slope is None:
            return y
        if self.leaky_slope == 0:
            return F.relu(y, inplace=True)
        return F.leaky_relu(y, self.leaky_slope, inplace=True)
