"""Every optimizer by name: its options, steps that are skipped, its state."""

from typing import get_args

import pytest
import torch
from torch import nn

from stem_complete.config import OptimizerConfig
from stem_complete.errors import ConfigError
from stem_complete.training.optimizers import GuardedOptimizer
from stem_complete.training.schedule import Stage

GOOD, BAD = torch.tensor(True), torch.tensor(False)
STAGE = Stage(0, 0.05, {"b": 2.0}, (0.8, 0.9))
OPTIMIZERS = get_args(OptimizerConfig.model_fields["name"].annotation)
OPTIONS = {
    "SGD": {"momentum": 0.9, "dampening": 0.1, "nesterov": False},
    "RMSprop": {"momentum": 0.5},
}
LIKE = {"SPAM": "Adam"}  # what torch has for the first few steps of one that it does not have


def problem(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 1))
    network.to(memory_format=torch.channels_last)
    groups = {"a": list(network[0].parameters()), "b": list(network[1].parameters())}
    optimizer = GuardedOptimizer(
        groups, name, OPTIONS.get(name, {}), learning_rate=0.05, betas=(0.8, 0.9)
    )
    optimizer.enter(STAGE)
    return network, optimizer


def step(network, optimizer, seed, usable=GOOD):
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
    optimizer.torch.zero_grad()
    loss = network(x).square().mean()
    (loss if usable else loss * torch.nan).backward()
    optimizer.step(usable)


def tensors(network, optimizer):
    state = optimizer.state(dict(network.named_parameters()))
    return {k: v.clone() for k, v in (network.state_dict() | state).items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_changes_nothing_that_later_steps_feel(name):
    """Also if it is the very first one, whose state does not exist yet."""
    plain, skipping = problem(name), problem(name)
    step(*skipping, seed=9, usable=BAD)
    for seed in range(4):
        step(*plain, seed)
        step(*skipping, seed)
        before = tensors(*skipping)
        step(*skipping, seed=9, usable=BAD)
        assert_same(before, tensors(*skipping))
    assert_same(tensors(*plain), tensors(*skipping))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch(name):
    network, guarded = problem(name)
    other, _ = problem(name)
    accepted = guarded.torch.defaults
    settings = {"betas": (0.8, 0.9)} if "betas" in accepted else {}
    rates = [{"params": p.parameters(), "lr": r} for p, r in zip(other, (0.05, 0.1), strict=True)]
    plain = getattr(torch.optim, LIKE.get(name, name))(rates, **settings, **OPTIONS.get(name, {}))
    for seed in range(3):
        step(network, guarded, seed)
        plain.zero_grad()
        x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
        other(x).square().mean().backward()
        plain.step()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("momentum", "nesterov"),
    [(0.0, False), (0.9, False), (0.9, True)],
    ids=["plain", "momentum", "nesterov"],
)
def test_sgd_is_that_of_its_formula(momentum, nesterov):
    """v = momentum v + g and w = w - rate v; Nesterov's g is where v alone would bring w.

    It is there that torch keeps the weights.
    """
    curvature, rate = torch.tensor([0.5, 3.0]), 0.1
    options = {"momentum": momentum, "nesterov": nesterov}
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = GuardedOptimizer(
        {"all": [weight]}, "SGD", options, learning_rate=rate, betas=(0.9, 0.99)
    )
    ahead = rate * momentum if nesterov else 0.0
    w, v = weight.detach().clone(), torch.zeros(2)
    for _ in range(10):
        weight.grad = curvature * weight.detach()
        optimizer.step(GOOD)
        v = momentum * v + curvature * (w - ahead * v)
        w = w - rate * v
        torch.testing.assert_close(weight.detach(), w - ahead * v)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_and_momenta_may_change_in_every_step(name):
    """As if torch's own optimizer had been told; a bad step between still changes nothing."""
    (network, guarded), (other, plain) = problem(name), problem(name)
    for seed in range(4):
        rate, momentum = 0.05 / (seed + 1), 0.9 - 0.2 * seed
        guarded.enter(STAGE._replace(learning_rate=rate, betas=(momentum, 0.9), momentum=momentum))
        for group, factor in zip(plain.torch.param_groups, (1, 2), strict=True):
            group["lr"] = factor * rate
            if "betas" in group:
                group["betas"] = (momentum, 0.9)
            elif group.get("momentum"):
                group["momentum"] = OPTIONS[name]["momentum"] * momentum
        step(network, guarded, seed)
        before = tensors(network, guarded)
        step(network, guarded, seed=9, usable=BAD)
        assert_same(before, tensors(network, guarded))
        step(other, plain, seed)
    assert_same(tensors(network, guarded), tensors(other, plain))


@pytest.mark.parametrize("name", OPTIONS)
def test_momentum_may_begin_at_none(name):
    network, optimizer = problem(name)
    for momentum in (0.0, 1.0):
        optimizer.enter(STAGE._replace(momentum=momentum))
        step(network, optimizer, seed=0)
    buffers = optimizer.state(dict(network.named_parameters()))
    assert any(name.endswith("momentum_buffer") and value.any() for name, value in buffers.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_on_to_the_bit_from_its_tensors_by_name(name):
    network, optimizer = problem(name)
    for seed in range(3):
        step(network, optimizer, seed)
    saved = tensors(network, optimizer)
    other, resumed = problem(name)
    other.load_state_dict({n: saved.pop(n) for n in other.state_dict()})
    parameters = dict(other.named_parameters())
    resumed.load({n: v.contiguous() for n, v in saved.items()}, parameters)
    for seed in range(3, 5):
        step(network, optimizer, seed)
        step(other, resumed, seed)
    assert_same(tensors(network, optimizer), tensors(other, resumed))
    for parameter in other.parameters():
        for value in resumed.torch.state[parameter].values():
            assert value.shape != parameter.shape or value.stride() == parameter.stride()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"momentun": 0.9}, r"options of SGD: momentum, .*found momentun"),
        ("Adam", {"betas": (0.5, 0.9)}, "found betas.*optimizer.beta1|beta1"),
        ("RMSprop", {"momentum": -1.0}, "Invalid momentum value"),
    ],
)
def test_options_that_torch_does_not_take_are_refused_in_one_line(name, options, message):
    group = {"all": [nn.Parameter(torch.zeros(2))]}
    with pytest.raises(ConfigError, match=message):
        GuardedOptimizer(group, name, options, learning_rate=0.1, betas=(0.9, 0.99))
