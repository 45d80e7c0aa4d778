"""Auxiliary trainer and the network that is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stem_complete.models import Architecture, TwoStageNetwork, build_network, initialise


def network() -> TwoStageNetwork:
    torch.manual_seed(0)
    return build_network(Architecture((4, 6, 8), 1, (3, 4), 1), bias=True)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_completions_at_full_and_half_size() -> None:
    completions = network()(images(3, 2, 16, 24))
    assert completions.full.shape == (3, 1, 16, 24)
    assert completions.half.shape == (3, 1, 8, 12)


def test_full_completion_is_the_generators() -> None:
    whole, x = network().eval(), images(1, 2, 16, 16)
    torch.testing.assert_close(whole(x).full, whole.generator(x))
    torch.testing.assert_close(whole(x).half, whole.trainer(whole.generator.inner_features(x)))


@pytest.mark.parametrize(
    ("stage", "untouched"), [("full", "trainer."), ("half", "generator.outer.")]
)
def test_each_loss_trains_its_own_branch_and_the_inner_generator(
    stage: str, untouched: str
) -> None:
    trained, x = network(), images(1, 2, 32, 32)
    initialise(trained, x)
    completion = getattr(trained(x), stage)
    (completion - images(*completion.shape)).square().mean().backward()
    for name, parameter in trained.named_parameters():
        gradient = 0.0 if parameter.grad is None else parameter.grad.abs().max().item()
        assert (gradient == 0) == name.startswith(untouched), name


def test_one_backward_pass_of_the_sum_gives_each_part_its_gradient() -> None:
    x = images(1, 2, 32, 32)
    together, apart = network(), network()
    full, half = together(x)
    (full.square().mean() + half.square().mean()).backward()
    apart(x).full.square().mean().backward()
    apart(x).half.square().mean().backward()
    for one, two in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-4)
