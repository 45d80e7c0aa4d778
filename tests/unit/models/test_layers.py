"""WeightNormConv2d: kernels, sizes, gradients, memory formats."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stem_complete.models import WeightNormConv2d


def layer_with_random_g(*sizes: int, **options: object) -> WeightNormConv2d:
    torch.manual_seed(0)
    layer = WeightNormConv2d(*sizes, **options)  # type: ignore[arg-type]
    if layer.g is not None:
        nn.init.uniform_(layer.g, 0.5, 2)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_kernel_of_each_output_channel_has_norm_g(transposed: bool) -> None:
    layer = layer_with_random_g(5, 7, stride=2, transposed=transposed)
    output_first = layer.kernel().transpose(0, 1) if transposed else layer.kernel()
    assert output_first.shape == (7, 5, 3, 3)
    torch.testing.assert_close(output_first.flatten(1).norm(dim=1), layer.g)


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_kernel_equals_torchs_weight_norm(transposed: bool) -> None:
    layer = layer_with_random_g(5, 7, transposed=transposed)
    theirs = nn.ConvTranspose2d(5, 7, 3) if transposed else nn.Conv2d(5, 7, 3)
    theirs.weight.data.copy_(layer.v.data)
    nn.utils.parametrizations.weight_norm(theirs, dim=1 if transposed else 0)
    assert layer.g is not None
    theirs.parametrizations.weight.original0.data.copy_(layer.per_output_channel(layer.g.data))
    torch.testing.assert_close(layer.kernel(), theirs.weight)


def test_published_transposed_kernel_is_normalised_per_input_channel() -> None:
    layer = layer_with_random_g(5, 7, stride=2, transposed=True, norm_per_input_channel=True)
    assert layer.g is not None
    for i in range(5):
        for o in range(7):
            expected = layer.g[o] * layer.v[i, o] / layer.v[i].norm()
            torch.testing.assert_close(layer.kernel()[i, o], expected)


def test_without_weight_norm_the_kernel_is_v() -> None:
    layer = WeightNormConv2d(2, 3, weight_norm=False)
    assert layer.g is None
    assert layer.kernel() is layer.v


def test_scaling_v_changes_nothing_and_its_gradient_is_orthogonal() -> None:
    layer = layer_with_random_g(3, 4)
    x = images(2, 3, 6, 6)
    before = layer(x)
    before.square().sum().backward()
    assert layer.v.grad is not None
    assert layer.v.grad.abs().max() > 1e-3
    along = (layer.v.grad * layer.v).flatten(1).sum(1)
    torch.testing.assert_close(along, torch.zeros(4), atol=1e-4, rtol=0)
    layer.v.data *= 3
    torch.testing.assert_close(layer(x), before)


def test_kernels_start_with_deviation_0_05_and_g_and_bias_at_1_and_0() -> None:
    torch.manual_seed(0)
    layer = WeightNormConv2d(64, 64, bias=True)
    assert layer.v.std().item() == pytest.approx(0.05, rel=0.02)
    assert layer.v.mean().item() == pytest.approx(0, abs=1e-3)
    assert layer.g is not None
    assert layer.g.eq(1).all()
    assert layer.bias is not None
    assert layer.bias.eq(0).all()


@pytest.mark.parametrize(
    ("kernel_size", "stride", "transposed", "size"),
    [
        pytest.param(3, 1, False, (8, 12), id="3x3"),
        pytest.param(5, 1, False, (8, 12), id="5x5"),
        pytest.param(1, 1, False, (8, 12), id="1x1"),
        pytest.param(3, 2, False, (4, 6), id="stride-2"),
        pytest.param(3, 2, True, (16, 24), id="transposed-stride-2"),
    ],
)
def test_output_size(
    kernel_size: int, stride: int, transposed: bool, size: tuple[int, int]
) -> None:
    layer = WeightNormConv2d(2, 3, kernel_size, stride, transposed=transposed)
    assert layer(images(2, 2, 8, 12)).shape == (2, 3, *size)


@pytest.mark.parametrize(
    ("slope", "below"), [(None, 1.0), (0.0, 0.0), (0.1, 0.1)], ids=["none", "relu", "leaky"]
)
def test_activation(slope: float | None, below: float) -> None:
    layer = layer_with_random_g(2, 3, leaky_slope=slope)
    x = images(1, 2, 8, 8)
    y = layer.pre_activation(x)
    assert (y < 0).any()
    torch.testing.assert_close(layer(x), torch.where(y < 0, below * y, y))


def test_input_is_left_alone() -> None:
    x = images(1, 3, 8, 8)
    layer_with_random_g(3, 3, bias=True)(x)
    torch.testing.assert_close(x, images(1, 3, 8, 8), rtol=0, atol=0)


def test_bias_acts_after_the_mean_norm() -> None:
    layer = layer_with_random_g(2, 3, bias=True, leaky_slope=None)
    means = layer(images(2, 2, 8, 8)).mean((2, 3))
    assert layer.bias is not None
    torch.testing.assert_close(means, layer.bias.expand(2, 3), atol=1e-6, rtol=1e-5)


def test_image_means_carry_gradient() -> None:
    # What is subtracted depends on the input, so the sum of the output is always 0.
    layer = layer_with_random_g(2, 3, leaky_slope=None)
    x = images(2, 2, 8, 8).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y.mean((2, 3)), torch.zeros(2, 3), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.zeros_like(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["training", "frozen", "eval"])
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_gradients_equal_finite_differences(mode: str, transposed: bool) -> None:
    layer = layer_with_random_g(
        2, 3, stride=2, transposed=transposed, bias=True, leaky_slope=0.1
    ).double()
    layer.train(mode != "eval")
    assert layer.mean_norm is not None
    layer.mean_norm.frozen = mode == "frozen"
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def output(x: Tensor, *values: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)
        return result

    x = images(2, 2, 4, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(output, (x, *parameters))


def test_images_of_a_batch_do_not_see_each_other() -> None:
    layer = layer_with_random_g(2, 3)
    x = images(3, 2, 8, 8)
    alone = torch.cat([layer(image[None]) for image in x])
    torch.testing.assert_close(layer(x), alone)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_channels_last_gives_the_same_and_stays(training: bool) -> None:
    layer = layer_with_random_g(4, 8, bias=True).train(training)
    x = images(2, 4, 8, 8)
    expected = layer(x)
    y = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)


def test_autocast_keeps_means_in_float32() -> None:
    layer = layer_with_random_g(4, 8, leaky_slope=None)
    x = images(2, 4, 16, 16)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.05, rtol=0.05)
    assert layer.mean_norm is not None
    assert layer.mean_norm.pending.dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"out_channels": 0}, id="no-channels"),
        pytest.param({"kernel_size": 4}, id="even-kernel"),
        pytest.param({"stride": 0}, id="no-stride"),
        pytest.param({"leaky_slope": -0.1}, id="negative-slope"),
        pytest.param({"mean_norm_at_inference": "batch"}, id="unknown-means"),
    ],
)
def test_bad_arguments(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        WeightNormConv2d(**{"in_channels": 2, "out_channels": 2} | options)  # type: ignore[arg-type]
