"""MeanNorm: whose means are subtracted, and how the running ones move."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stem_complete.models import (
    MeanNorm,
    WeightNormConv2d,
    commit_statistics,
    freeze_norms,
    pending_statistics,
    running_norms,
)


def images(b: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((b, 2, 8, 8), generator=generator) + torch.arange(b)[:, None, None, None]


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        WeightNormConv2d(2, 4), WeightNormConv2d(4, 3), WeightNormConv2d(3, 1, norm="none")
    )


def norm_with_running_mean(**options: str) -> MeanNorm:
    norm = MeanNorm(2, **options)  # type: ignore[arg-type]
    norm.running_mean.copy_(torch.tensor([3.0, -1.0]))
    return norm


def test_training_subtracts_each_images_own_means() -> None:
    x = images()
    y = norm_with_running_mean()(x.clone())
    torch.testing.assert_close(y, x - x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_gradient_in_any_layout(layout: torch.memory_format, dtype: torch.dtype) -> None:
    """In place, with a gradient that others may hold as well."""
    x, seed = images().to(dtype), images(seed=1).to(dtype)
    rounding = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    inputs = x.clone(memory_format=layout).requires_grad_()
    gradient = seed.clone(memory_format=layout)
    y = norm_with_running_mean()(inputs * 1)
    y.backward(gradient)
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, x - x.mean((2, 3), keepdim=True), **rounding)
    torch.testing.assert_close(inputs.grad, seed - seed.mean((2, 3), keepdim=True), **rounding)
    torch.testing.assert_close(gradient, seed, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["eval", "frozen"])
def test_eval_and_frozen_subtract_running_means(mode: str) -> None:
    norm = norm_with_running_mean()
    if mode == "eval":
        norm.eval()
    else:
        freeze_norms(norm)
    x = images()
    y = norm(x)
    torch.testing.assert_close(y, x - torch.tensor([3.0, -1.0])[:, None, None])
    assert norm.pending.eq(0).all()


@pytest.mark.parametrize("mode", ["eval", "frozen"])
def test_image_means_at_inference(mode: str) -> None:
    norm = norm_with_running_mean(at_inference="image")
    if mode == "eval":
        norm.eval()
    else:
        freeze_norms(norm)
    x = images()
    torch.testing.assert_close(norm(x.clone()), x - x.mean((2, 3), keepdim=True))
    assert norm.pending.eq(0).all()


@pytest.mark.parametrize("mode", ["eval", "frozen"])
def test_layer_subtracts_running_means_inside_the_convolution(mode: str) -> None:
    layer = WeightNormConv2d(2, 3, bias=True, leaky_slope=None)
    assert layer.mean_norm is not None
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    nn.init.normal_(layer.mean_norm.running_mean)
    if mode == "eval":
        layer.eval()
    else:
        freeze_norms(layer)
    x = images()
    shift = (layer.bias - layer.mean_norm.running_mean)[:, None, None]
    torch.testing.assert_close(layer(x), layer.convolve(x) + shift)


def test_forward_leaves_running_means_alone_and_remembers_image_means() -> None:
    norm = norm_with_running_mean()
    first, second = images(3), images(2, seed=1)
    norm(first.clone().requires_grad_() * 1)
    norm(second.clone())
    assert norm.running_mean.tolist() == [3, -1]
    assert norm.pending[-1] == 5
    assert not norm.pending.requires_grad
    expected = torch.cat([first, second]).mean((2, 3)).sum(0)
    torch.testing.assert_close(norm.pending[:-1], expected)


def test_commit_moves_by_a_hundredth_and_forgets() -> None:
    norm = norm_with_running_mean()
    norm(images())
    norm.commit(torch.tensor([10.0, 20.0, 5.0]))
    expected = torch.tensor([0.99 * 3 + 0.01 * 2, 0.99 * -1 + 0.01 * 4])
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.pending.eq(0).all()


def test_committing_nothing_does_nothing() -> None:
    norm = norm_with_running_mean()
    norm.commit(norm.pending)
    assert norm.running_mean.tolist() == [3, -1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sum_that_is_not_finite_leaves_its_channel(bad: float) -> None:
    norm = norm_with_running_mean()
    norm.commit(torch.tensor([bad, -2.0, 1.0]))
    assert norm.running_mean[0] == 3
    assert norm.running_mean[1].item() == pytest.approx(0.99 * -1 + 0.01 * -2)


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, 5)))
def test_running_means_do_not_depend_on_how_the_batch_is_spread(cuts: set[int]) -> None:
    # Law behind micro-batches and workers: the reduced sums are those of the whole batch.
    whole, x = chain(), images(6)
    whole(x)
    commit_statistics(whole, pending_statistics(whole))
    edges = [0, *sorted(cuts), 6]
    spread, reduced = chain(), torch.zeros(4 + 1 + 3 + 1)
    for start, stop in pairwise(edges):
        worker = chain()
        worker(x[start:stop])
        reduced += pending_statistics(worker)
    commit_statistics(spread, reduced)
    for expected, found in zip(running_norms(whole), running_norms(spread), strict=True):
        assert expected.running_mean.abs().max() > 1e-4
        torch.testing.assert_close(found.running_mean, expected.running_mean)


def test_a_network_without_mean_norm_has_nothing_pending() -> None:
    network = WeightNormConv2d(2, 3, norm="none")
    pending = pending_statistics(network)
    assert pending.shape == (0,)
    commit_statistics(network, pending)


def test_state_dict_keeps_running_means_and_frozen_but_nothing_pending(tmp_path: Path) -> None:
    network = chain()
    network(images())
    commit_statistics(network, pending_statistics(network))
    freeze_norms(network)
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    loaded = chain()
    loaded.load_state_dict(load_file(tmp_path / "network.safetensors"))
    for before, after in zip(running_norms(network), running_norms(loaded), strict=True):
        assert after.frozen
        assert torch.equal(after.running_mean, before.running_mean)
    assert not [key for key in network.state_dict() if "pending" in key]


def test_unfrozen_state_unfreezes() -> None:
    state = chain().state_dict()
    network = chain()
    freeze_norms(network)
    network.load_state_dict(state)
    assert not any(layer.frozen for layer in running_norms(network))
