"""Batch and layer norm: torch's own, but for whom they see and when they remember."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stem_complete.inference.tiling import run_network
from stem_complete.models import (
    Architecture,
    BatchNorm,
    LayerNorm,
    WeightNormConv2d,
    build_network,
    commit_statistics,
    fold_norms,
    freeze_norms,
    initialise,
    pending_statistics,
)
from stem_complete.models.norms import _OfAllWorkers
from stem_complete.models.running import DECAY

TINY = Architecture((4, 6, 8), 1, (4, 4), 1)


def images(b: int = 3, c: int = 4, seed: int = 0) -> Tensor:
    return torch.randn((b, c, 6, 8), generator=torch.Generator().manual_seed(seed)) * 3 + 1


def ours_and_torchs() -> tuple[BatchNorm, nn.BatchNorm2d]:
    ours, torchs = BatchNorm(4), nn.BatchNorm2d(4, momentum=1 - DECAY)
    for norm in (ours, torchs):
        norm.weight.data = torch.tensor([1.0, 2.0, -1.0, 0.5])
        norm.bias.data = torch.tensor([0.0, 1.0, 2.0, -1.0])
    return ours, torchs


@pytest.mark.parametrize("several_workers", [False, True])
def test_batch_norm_is_torchs_with_its_gradients_and_running_statistics(
    several_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the formula for several workers, of whom this is the only one."""
    if several_workers:
        monkeypatch.setattr(BatchNorm, "_alone", BatchNorm._over_workers)
        monkeypatch.setattr(_OfAllWorkers, "apply", lambda own: own[None])
    ours, torchs = ours_and_torchs()
    for seed in range(3):
        found = []
        for norm in (ours, torchs):
            x = images(seed=seed).requires_grad_()
            y = norm(x)
            y.square().mul(images(seed=9)).sum().backward()
            found.append((y, x.grad, norm.weight.grad, norm.bias.grad))
        commit_statistics(ours, pending_statistics(ours))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.running_mean, torchs.running_mean)
        torch.testing.assert_close(ours.running_var, torchs.running_var)
    torch.testing.assert_close(ours.eval()(images()), torchs.eval()(images()))


def test_frozen_batch_norm_trains_with_running_statistics() -> None:
    ours, torchs = ours_and_torchs()
    freeze_norms(ours)
    torch.testing.assert_close(ours.train()(images()), torchs.eval()(images()))
    assert not pending_statistics(ours).any()


def test_bad_images_leave_running_statistics() -> None:
    norm, _ = ours_and_torchs()
    x = images()
    x[1, 2, 0, 0] = torch.nan
    norm(x)
    pending = pending_statistics(norm)
    assert not pending.isfinite().all()
    # A step that is not usable commits nothing, as in `CompletionTask.commit`.
    commit_statistics(norm, torch.zeros_like(pending))
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.equal(norm.running_var, torch.ones(4))
    assert not pending_statistics(norm).any()


def test_layer_norm_is_torchs_over_the_channels_of_each_pixel() -> None:
    norm = LayerNorm(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = images()
    for b, row, column in ((0, 0, 0), (2, 5, 7)):
        expected = F.layer_norm(x[b, :, row, column], [4], norm.weight, norm.bias)
        torch.testing.assert_close(norm(x)[b, :, row, column], expected)
    assert torch.equal(norm(x[..., :3, 2:]), norm(x)[..., :3, 2:])


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_norm_that_scales_needs_neither_weight_norm_nor_bias(norm: str) -> None:
    layer = WeightNormConv2d(2, 3, norm=norm, bias=True)  # type: ignore[arg-type]
    assert layer.g is None
    assert layer.bias is None
    x = images(c=2)
    y = layer.norm(layer.convolve(x)).relu()  # type: ignore[misc]
    torch.testing.assert_close(layer(x), y)
    network = build_network(replace(TINY, norm=norm))
    *_, last = (m for m in network.generator.modules() if isinstance(m, WeightNormConv2d))
    assert last.norm is None
    assert last.g is not None
    assert last.bias is not None


def test_unknown_norms_are_refused() -> None:
    with pytest.raises(ValueError, match="mean, batch, layer, none, got 'group'"):
        WeightNormConv2d(2, 3, norm="group")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_models_complete_large_scans_in_tiles(norm: str) -> None:
    """No norm looks beyond a tile, so that pixels far from its border are those of the whole."""
    torch.manual_seed(0)
    network = build_network(Architecture((4, 6), 0, (4, 4), 0, norm=norm))  # type: ignore[arg-type]
    x = torch.randn(1, 2, 64, 256) * torch.linspace(0, 2, 256)
    initialise(network, x)
    generator = fold_norms(network).generator
    whole, tiled = (
        run_network(
            generator,
            lambda rows, columns: x[..., rows, columns],
            (64, 256),
            tile_px=tile_px,
            overlap_px=64,
        )
        for tile_px in (256, 128)
    )
    torch.testing.assert_close(whole, generator(x))
    torch.testing.assert_close(tiled[..., :64], whole[..., :64], rtol=1e-4, atol=1e-5)
    assert (tiled - whole).abs().mean() < 0.02 * whole.std()
