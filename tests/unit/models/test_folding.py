"""Folding into plain convolutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stem_complete.models import (
    PRESETS,
    Architecture,
    BatchNorm,
    MeanNorm,
    TwoStageNetwork,
    WeightNormConv2d,
    build_network,
    fold_norms,
    initialise,
    running_norms,
)

TINY = Architecture((4, 6, 8), 1, (3, 4), 1)
TINY_OURS = Architecture(
    (4, 6), 1, (3, 4), 1, patch=2, fine_blocks=1, spectral_blocks=1, skips=True
)
OPTIONS = [
    pytest.param({}, id="paper"),
    pytest.param({"bias": True, "leaky_slope": 0.01}, id="bias-leaky"),
    pytest.param({"mean_norm_at_inference": "image"}, id="image-means"),
    pytest.param(
        {"mean_norm_at_inference": "image", "bias": True, "reference_layers": True}, id="reference"
    ),
]


def images(b: int = 2) -> Tensor:
    return torch.randn((b, 2, 32, 64), generator=torch.Generator().manual_seed(1))


def trained(sizes: Architecture, **options: object) -> TwoStageNetwork:
    """A network with all its parameters and running means away from where they start."""
    torch.manual_seed(0)
    network = build_network(sizes, **options)  # type: ignore[arg-type]
    initialise(network, images(1))
    for norm in running_norms(network):
        norm.running_mean.add_(torch.randn_like(norm.running_mean), alpha=0.3)
        if isinstance(norm, BatchNorm):
            norm.running_var.mul_(1 + torch.rand_like(norm.running_var))
    for name, parameter in network.named_parameters():
        if name.endswith(".bias"):
            nn.init.normal_(parameter, 0, 0.3)
    return network


def assert_same_completions(network: TwoStageNetwork, folded: TwoStageNetwork, x: Tensor) -> None:
    with torch.no_grad():
        for expected, found in zip(network.eval()(x), folded(x), strict=True):
            error = (found - expected).abs().max() / expected.abs().max()
            assert error < 1e-5


@pytest.mark.parametrize(
    "sizes",
    [TINY, TINY_OURS, *(replace(TINY_OURS, norm=norm) for norm in ("batch", "layer", "none"))],
    ids=["paper", "any-dose", "batch", "layer", "none"],
)
@pytest.mark.parametrize("options", OPTIONS)
def test_folded_network_computes_the_same(sizes: Architecture, options: dict[str, object]) -> None:
    network = trained(sizes, **options)
    assert_same_completions(network, fold_norms(network), images())


@pytest.mark.parametrize("preset", PRESETS)
def test_folded_preset_computes_the_same(preset: str) -> None:
    """Its layers, of an eighth of the channels."""
    sizes = PRESETS[preset]
    inner, outer = (
        tuple(n // 8 for n in widths) for widths in (sizes.inner_widths, sizes.outer_widths)
    )
    network = trained(replace(sizes, inner_widths=inner, outer_widths=outer))  # type: ignore[arg-type]
    assert_same_completions(network, fold_norms(network), images(1))


def test_folded_channels_last_computes_the_same() -> None:
    network = trained(TINY)
    folded = fold_norms(network).to(memory_format=torch.channels_last)
    assert_same_completions(network, folded, images().to(memory_format=torch.channels_last))


@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_is_left_to_normalise(options: dict[str, object]) -> None:
    network = trained(TINY, **options)
    folded = fold_norms(network)
    assert not [m for m in folded.modules() if isinstance(m, WeightNormConv2d | MeanNorm)]
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    kernels = [[p.shape for p in part.parameters() if p.ndim == 4] for part in (folded, network)]
    assert kernels[0] == kernels[1]


@pytest.mark.parametrize(("means", "matter"), [("running", True), ("image", False)])
def test_running_means_matter_only_where_inference_uses_them(means: str, matter: bool) -> None:
    network = trained(TINY, mean_norm_at_inference=means)
    before = fold_norms(network)(images()).full
    for norm in running_norms(network):
        norm.running_mean += 1
    assert torch.equal(fold_norms(network)(images()).full, before) is not matter


def test_original_is_left_alone_and_shares_no_memory() -> None:
    network = trained(TINY)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for parameter in fold_norms(network).parameters():
        parameter.zero_()
    assert network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("options", OPTIONS)
def test_folded_state_loads_into_a_network_built_from_its_sizes(options: dict[str, object]) -> None:
    network = trained(TINY, **options)
    built = build_network(TINY, folded=True, **options)  # type: ignore[arg-type]
    built.load_state_dict(fold_norms(network).state_dict(), assign=True)
    assert not built.training
    assert_same_completions(network, built, images())


def test_generator_alone_folds_and_loads() -> None:
    generator = trained(TINY).generator.eval()
    built = build_network(TINY, folded=True).generator
    built.load_state_dict(fold_norms(generator).state_dict(), assign=True)
    with torch.no_grad():
        torch.testing.assert_close(built(images()), generator(images()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "module", [nn.Conv2d(1, 1, 1), WeightNormConv2d(1, 1)], ids=["plain", "one"]
)
def test_nothing_to_fold(module: nn.Module) -> None:
    with pytest.raises(ValueError, match="no WeightNormConv2d to fold"):
        fold_norms(module)
