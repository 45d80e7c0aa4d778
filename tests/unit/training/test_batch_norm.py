"""Batch norm in one worker, beside torch's; with several, see tests/integration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stem_complete.training import batch_norm
from stem_complete.training.batch_norm import BatchNorm

GOOD, BAD = torch.tensor(True), torch.tensor(False)


def features(seed, requires_grad=False):
    x = 3 + 2 * torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(requires_grad)


def assert_same_running(ours, torchs):
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_variance, torchs.running_var)


@pytest.mark.parametrize("several_workers", [False, True])
def test_it_is_torchs_batch_norm(several_workers, monkeypatch):
    """Also by the formula for several workers, of whom all but this one have nothing to add."""
    ours, torchs = BatchNorm(4), nn.BatchNorm2d(4)
    for norm in (ours, torchs):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(5))
    if several_workers:
        monkeypatch.setattr(BatchNorm, "_alone", BatchNorm._over_workers)
    for seed in range(3):
        x, y = features(seed, True), features(seed, True)
        found, expected = ours(x), torchs(y)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for norm, output in ((ours, found), (torchs, expected)):
            norm.zero_grad()
            output.pow(3).sum().backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(ours.weight.grad, torchs.weight.grad, rtol=1e-4, atol=1e-3)
        ours.commit(GOOD)
        assert_same_running(ours, torchs)
    ours.eval()
    torchs.eval()
    torch.testing.assert_close(ours(features(9)), torchs(features(9)))


def test_a_step_that_is_not_usable_changes_no_running_statistics():
    plain, skipping = BatchNorm(4), BatchNorm(4)
    for seed in range(3):
        skipping(features(9) * torch.nan)
        skipping.commit(BAD)
        for norm in (plain, skipping):
            norm(features(seed))
            norm.commit(GOOD)
    torch.testing.assert_close(plain.state_dict(), skipping.state_dict(), rtol=0, atol=0)


def test_micro_batches_of_a_step_count_once_together():
    norm = BatchNorm(4)
    for seed in range(2):
        norm(features(seed))
    norm.commit(GOOD)
    means = torch.stack([features(seed).mean((0, 2, 3)) for seed in range(2)]).mean(0)
    torch.testing.assert_close(norm.running_mean, batch_norm.MOMENTUM * means)


def test_nothing_is_moved_without_a_step():
    norm = BatchNorm(4)
    norm.commit(GOOD)
    assert norm.running_mean.abs().max() == 0
    assert norm.running_variance.eq(1).all()
