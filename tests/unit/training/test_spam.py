"""SPAM, beside its paper's algorithm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from stem_complete.errors import ConfigError
from stem_complete.training.optimizers import GuardedOptimizer

OPTIONS = {"threshold": 50.0, "reset_every_steps": 45, "warmup_steps": 10}
RATE, BETA1, BETA2, EPS = 0.1, 0.8, 0.9, 1e-8
GOOD, BAD = torch.tensor(True), torch.tensor(False)


GRADIENTS = np.random.default_rng(0).normal(size=(100, 2))
GRADIENTS[[5, 30, 50, 80], 0] *= 100


def make(options=OPTIONS, start=(0.0, 0.0)):
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    groups = {"a": [parameter]}
    return parameter, GuardedOptimizer(
        groups, "SPAM", options, learning_rate=RATE, betas=(BETA1, BETA2)
    )


def take(parameter, optimizer, gradient, usable=GOOD):
    parameter.grad = torch.tensor(gradient)
    optimizer.step(usable)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_papers_algorithm(decay):
    """And weights decay apart from it, as AdamW's."""
    parameter, optimizer = make(OPTIONS | {"weight_decay": decay}, start=(3.0, -2.0))
    w, m, v = np.array([3.0, -2.0]), np.zeros(2), np.zeros(2)
    clipped = []
    for t, g in enumerate(GRADIENTS, start=1):
        since = t % 45
        if since == 0:
            m, v = np.zeros(2), np.zeros(2)
        limit = np.sqrt(50 * v)
        if since >= 20 and (np.abs(g) > limit).any():
            clipped.append(t)
            g = np.sign(g) * np.minimum(np.abs(g), limit)
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g**2
        annealed = 0.99 * (1 + math.cos(math.pi * since / 10)) / 2
        share = 1 - annealed if t >= 45 and since < 10 else 1.0
        w = w * (1 - RATE * share * decay)
        w = w - RATE * share * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
        take(parameter, optimizer, GRADIENTS[t - 1])
        np.testing.assert_allclose(parameter.detach(), w, rtol=1e-6, err_msg=str(t))
    assert clipped == [31, 81]  # not in the first 20 steps after the start and after each reset


def test_a_skipped_step_neither_counts_nor_forgets():
    plain, skipping = make(), make()
    for gradient in GRADIENTS:
        take(*plain, gradient)
        take(*skipping, np.full(2, np.nan), BAD)
        take(*skipping, gradient)
    assert torch.equal(plain[0], skipping[0])


@pytest.mark.parametrize("at", [44, 45, 50])
def test_it_goes_on_as_if_it_had_not_been_stopped(at):
    whole, stopped = make(), make()
    for gradient in GRADIENTS:
        take(*whole, gradient)
    for gradient in GRADIENTS[:at]:
        take(*stopped, gradient)
    resumed = make(start=stopped[0].tolist())
    resumed[1].load(stopped[1].state({"w": stopped[0]}), {"w": resumed[0]})
    for gradient in GRADIENTS[at:]:
        take(*resumed, gradient)
    assert torch.equal(whole[0], resumed[0])


def test_a_stages_rate_is_what_it_comes_back_to():
    parameter, optimizer = make()
    for gradient in GRADIENTS[:46]:
        take(parameter, optimizer, gradient)
    assert optimizer.groups[0]["lr"] == RATE


def test_a_warm_up_longer_than_a_period_is_refused():
    with pytest.raises(ConfigError, match="warmup_steps < reset_every_steps"):
        make({"reset_every_steps": 100})
