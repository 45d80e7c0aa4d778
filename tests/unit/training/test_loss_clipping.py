"""ALRC is what its config says."""

from __future__ import annotations

import torch

from stem_complete.config import ALRCConfig
from stem_complete.training.loss_clipping import alrc_of


def test_losses_are_raised_where_a_config_says_so() -> None:
    """To 2 deviations of 1 below their mean of 10; those above are clipped as without it."""
    losses = torch.tensor([4.0, 9.0, 20.0])
    for below, expected in ((None, [4.0, 9.0, 13.0]), (2.0, [8.0, 9.0, 13.0])):
        config = ALRCConfig(mu1_start=10.0, mu2_start=101.0, num_stddev_below=below)
        make = alrc_of(config)
        assert make is not None
        torch.testing.assert_close(make()(losses), torch.tensor(expected))


def test_no_config_clips_no_loss() -> None:
    assert alrc_of(None) is None
