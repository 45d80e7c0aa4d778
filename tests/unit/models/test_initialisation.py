"""The data-dependent initialisation pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stem_complete.models import (
    Architecture,
    TwoStageNetwork,
    WeightNormConv2d,
    build_network,
    initialise,
    running_norms,
)

TINY = Architecture((4, 6, 8), 1, (3, 4), 1)
TINY_OURS = Architecture(
    (4, 6), 1, (3, 4), 1, patch=2, fine_blocks=1, spectral_blocks=1, skips=True
)
OPTIONS = [
    pytest.param({}, id="paper"),
    pytest.param({"bias": True, "reference_layers": True}, id="reference"),
    pytest.param({"mean_norm_at_inference": "image", "leaky_slope": 0.1}, id="image-means"),
    pytest.param({"sizes": TINY_OURS}, id="any-dose"),
    pytest.param({"sizes": replace(TINY_OURS, norm="batch")}, id="batch"),
]


def network(sizes: Architecture = TINY, **options: object) -> TwoStageNetwork:
    torch.manual_seed(0)
    return build_network(sizes, **options)  # type: ignore[arg-type]


def images(b: int = 1) -> Tensor:
    # Correlated and off centre, unlike what the layers are to make of them.
    x = torch.randn((b, 2, 32, 48), generator=torch.Generator().manual_seed(1))
    return nn.functional.avg_pool2d(x, 3, stride=1, padding=1) * 4 + 1


def pre_activations(network: nn.Module, x: Tensor) -> list[tuple[WeightNormConv2d, Tensor]]:
    seen: list[tuple[WeightNormConv2d, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, WeightNormConv2d)
        seen.append((layer, layer.pre_activation(*inputs)))

    layers = [module for module in network.modules() if isinstance(module, WeightNormConv2d)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(layers)
    return seen


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_pre_activations_get_mean_0_and_deviation_1(
    options: dict[str, object], training: bool
) -> None:
    fitted, x = network(**options), images()
    initialise(fitted, x)
    for layer, y in pre_activations(fitted.train(training), x):
        std, mean = torch.std_mean(y, (0, 2, 3), correction=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=2e-4, rtol=0)
        if layer.mean_norm is not None or layer.bias is not None or layer.norm is not None:
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=2e-4, rtol=0)


def test_without_it_deviations_are_not_1() -> None:
    deviations = torch.stack([y.std() for _, y in pre_activations(network(), images())])
    assert (deviations - 1).abs().max() > 0.5


def test_running_means_are_those_of_the_scaled_pre_activations() -> None:
    fitted, x = network(), images()
    initialise(fitted, x)
    fitted(x)
    for norm in running_norms(fitted):
        assert norm.running_mean.abs().max() > 1e-2
        torch.testing.assert_close(norm.running_mean, norm.pending[:-1], atol=1e-4, rtol=1e-4)


def test_several_images_are_fitted_as_training_sees_them() -> None:
    fitted, x = network(), images(3) * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
    initialise(fitted, x)
    for layer, y in pre_activations(fitted, x):
        std, mean = torch.std_mean(y, (0, 2, 3), correction=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=2e-4, rtol=0)
        if layer.mean_norm is not None:
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=2e-4, rtol=0)


def test_is_deterministic() -> None:
    first, second = network(), network()
    initialise(first, images())
    initialise(second, images())
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_leaves_v_mode_hooks_and_pending_as_they_were(training: bool) -> None:
    fitted = network().train(training)
    before = {name: value.clone() for name, value in fitted.named_parameters()}
    initialise(fitted, images())
    for name, value in fitted.named_parameters():
        assert value.requires_grad
        assert value.grad is None
        assert torch.equal(value, before[name]) == name.endswith(".v"), name
    assert fitted.training is training
    assert all(norm.pending.eq(0).all() for norm in running_norms(fitted))
    g = fitted.generator.outer.image.g
    assert g is not None
    scale = g.clone()
    fitted(images() * 2)
    assert torch.equal(g, scale)


def test_dead_channels_keep_their_scale() -> None:
    fitted = network()
    initialise(fitted, torch.zeros(1, 2, 32, 32))
    for _, y in pre_activations(fitted, images()):
        assert y.isfinite().all()
    for layer in (fitted.generator.inner.entry, fitted.generator.outer.entry):
        assert layer.g is not None
        assert layer.g.eq(1).all()
