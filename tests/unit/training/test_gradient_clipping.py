"""Clipping of gradients and steps, beside the formulas of those who proposed it."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from torch import nn

from stem_complete.config import GradientClippingConfig
from stem_complete.models.layers import WeightNormConv2d
from stem_complete.training.gradient_clipping import Gradients, build_clipping

TRUE = torch.tensor(True)


class Steps:
    """Gives gradients to parameters step by step, and has them clipped."""

    def __init__(self, kind, values, limit=None):
        network = nn.ParameterList(torch.tensor(value) for value in values)
        self.parameters = list(network)
        self.clipping = build_clipping(GradientClippingConfig(kind=kind, limit=limit), network)

    def __call__(self, gradients, loss=1.0, usable=TRUE):
        """Whether the step is taken; the clipped gradients are the parameters'."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else torch.tensor(gradient).float()
        some = [p for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in some])
        return bool(self.clipping(Gradients(some, norm, torch.tensor(loss), usable)))

    @property
    def norms(self):
        return [float(p.grad.norm()) for p in self.parameters if p.grad is not None]


@pytest.mark.parametrize(
    ("kind", "limit", "expected"),
    [
        ("none", 1.0, [3.0, -0.5, 4.0]),
        ("value", 1.0, [1.0, -0.5, 1.0]),
        ("norm", 100.0, [3.0, -0.5, 4.0]),
        ("norm", 2.0, [3 / 5.025 * 2, -0.5 / 5.025 * 2, 4 / 5.025 * 2]),
        ("layer", 3.5, [3.0, -0.5, 3.5]),
        ("layer", 1.0, [3 / 3.0414, -0.5 / 3.0414, 1.0]),
    ],
)
def test_gradients_are_clipped(kind, limit, expected):
    steps = Steps(kind, [[0.0, 0.0], [0.0]], limit)
    assert steps([[3.0, -0.5], [4.0]])
    clipped = torch.cat([p.grad for p in steps.parameters])
    torch.testing.assert_close(clipped, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_agc_limits_each_unit_by_its_weights():
    weights = [[[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]], [0.3, 0.4]]
    steps = Steps("agc", weights, limit=0.1)
    steps([[[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]], [0.0, 2.0]])
    matrix, bias = (p.grad for p in steps.parameters)
    # 0.1 of 5, of the smallest 0.001, of 50 (which clips nothing), and of the bias as a whole.
    torch.testing.assert_close(matrix[:, 1], torch.tensor([0.5, 1e-4, 2.0]))
    torch.testing.assert_close(bias, torch.tensor([0.0, 0.05]))


def test_a_filter_of_a_convolution_is_a_unit():
    steps = Steps("agc", [np.ones((2, 3, 3, 3), np.float32)], limit=0.01)
    gradient = np.zeros((2, 3, 3, 3), np.float32)
    gradient[0, 0, 0, 0], gradient[1] = 5, 0.001
    steps([gradient])
    (clipped,) = (p.grad for p in steps.parameters)
    assert float(clipped[0].norm()) == pytest.approx(0.01 * 27**0.5)
    torch.testing.assert_close(clipped[1], torch.tensor(gradient[1]))


def clip_random_gradients(network, limit=0.01):
    """Gradients of a network before and after AGC, by name."""
    clipping = build_clipping(GradientClippingConfig(kind="agc", limit=limit), network)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = {name: p.grad.clone() for name, p in network.named_parameters()}
    clipping(Gradients(list(network.parameters()), torch.ones(()), torch.ones(()), TRUE))
    return before, {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("make", [nn.ConvTranspose2d, WeightNormConv2d], ids=["torchs", "ours"])
def test_a_transposed_filter_is_that_of_an_output(make):
    """Its kernel is [in, out, k, k]; of weight norm the direction `v`, not the kernel, counts."""
    torch.manual_seed(0)
    ours = make is WeightNormConv2d
    layer = make(2, 3, 3, **({"transposed": True} if ours else {}))
    name = "v" if ours else "weight"
    before, after = clip_random_gradients(layer)
    most = 0.01 * norms_by_output(layer.get_parameter(name).detach())
    assert (norms_by_output(before[name]) > most).all()
    torch.testing.assert_close(norms_by_output(after[name]), most)
    torch.testing.assert_close(after[name], before[name] * most / norms_by_output(before[name]))
    if ours:  # the lengths of all filters are one unit, as gains are
        assert float(after["g"].norm()) == pytest.approx(0.01 * 3**0.5)


def norms_by_output(kernel):
    return torch.linalg.vector_norm(kernel, dim=(0, 2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("make", "unclipped"),
    [
        (lambda: [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)], {"2.weight"}),
        (lambda: [nn.Linear(4, 4), nn.Conv2d(2, 2, 3)], set()),
    ],
    ids=["linear", "convolution"],
)
def test_only_weights_of_a_last_linear_layer_stay_unclipped(make, unclipped):
    torch.manual_seed(0)
    before, after = clip_random_gradients(nn.Sequential(*make()))
    assert {name for name in before if torch.equal(before[name], after[name])} == unclipped


def norms_with_spikes(num, every=17):
    norms = np.random.default_rng(0).lognormal(0, 0.1, num)
    norms[every::every] *= 8
    return norms


def test_zclip_follows_its_papers_moments():
    norms = norms_with_spikes(90)
    steps = Steps("zclip", [[0.0]])
    mean, variance, found = fmean(norms[:25]), stdev(norms[:25]) ** 2 * 24 / 25, []
    for norm in norms:
        steps([[norm]])
        found += steps.norms
    np.testing.assert_allclose(found[:25], norms[:25], rtol=1e-5)
    for norm, clipped in zip(norms[25:], found[25:], strict=True):
        z = (norm - mean) / math.sqrt(variance)
        expected = norm if z <= 2.5 else mean + 2.5**2 / z * math.sqrt(variance)
        assert clipped == pytest.approx(expected, rel=1e-3)
        mean = 0.97 * mean + 0.03 * expected
        variance = 0.97 * variance + 0.03 * (expected - mean) ** 2
    assert max(found[25:]) < 4 < max(norms[25:])


def test_adagc_limits_each_tensor_by_its_own_past():
    norms = np.stack([norms_with_spikes(160), 0.01 * norms_with_spikes(160, every=23)], 1)
    steps = Steps("adagc", [[0.0], [0.0]])
    means = [math.inf, math.inf]
    for step, pair in enumerate(norms):
        steps([[value] for value in pair])
        if step < 100:
            factor = min(1.0, 1 / math.hypot(*pair))
            expected = [factor * value for value in pair]
            means = [min(m, e) for m, e in zip(means, expected, strict=True)]
        else:
            expected = [min(v, 1.05 * m) for v, m in zip(pair, means, strict=True)]
            means = [0.98 * m + 0.02 * e for m, e in zip(means, expected, strict=True)]
        assert steps.norms == pytest.approx(expected, rel=1e-4)


def test_adagc_knows_each_tensor_by_its_place_where_some_are_frozen():
    steps = Steps("adagc", [[0.0], [0.0]])
    for _ in range(100):
        steps([None, [0.5]])
    steps([[3.0], [3.0]])
    assert steps.norms == pytest.approx([3.0, 1.05 * 0.5])
    steps([[30.0], None])
    assert steps.norms == pytest.approx([1.05 * 3.0])


def test_steps_that_stand_out_are_left_out():
    rng = np.random.default_rng(0)
    losses, norms = rng.normal(5, 0.1, 300), rng.normal(1, 0.1, 300)
    losses[[20, 150]] = 50  # the first before anything can be known
    norms[250] = 20
    steps = Steps("skip", [[0.0]])
    taken = [steps([[norm]], loss=loss) for loss, norm in zip(losses, norms, strict=True)]
    assert [step for step, each in enumerate(taken) if not each] == [150, 250]
    assert steps.norms == pytest.approx([norms[-1]])  # gradients stay as they are


@pytest.mark.parametrize("kind", ["zclip", "adagc", "skip"])
def test_steps_that_are_not_finite_are_not_remembered(kind):
    steps, without = (Steps(kind, [[0.0], [0.0]]) for _ in range(2))
    for step, norm in enumerate(norms_with_spikes(150)):
        gradients = [[norm], [0.1 * norm]]
        assert steps(gradients) == without(gradients)
        if step % 10 == 0:
            assert not steps([[math.nan], [1.0]], math.inf, torch.tensor(False))
    for name, value in steps.clipping.state_dict().items():
        torch.testing.assert_close(value, without.clipping.state_dict()[name])
