"""What torch compiles is one graph, without branches on data, and gives the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stem_complete.losses import ALRC
from stem_complete.models import WeightNormConv2d, pending_statistics
from stem_complete.scan import (
    Augmentation,
    Detector,
    ReferenceNoise,
    ScanSimulator,
    Stream,
    archimedean,
    encode,
    example_keys,
    uniform,
)


@pytest.mark.parametrize("noise", [ReferenceNoise(), Detector(40.0, 0.0, 2.0)], ids=repr)
def test_simulation(noise):
    images = uniform(example_keys(5, 0, torch.arange(6), Stream.NOISE), (1, 32, 32)) * 2 - 1
    path = archimedean((32, 32), "1/8")
    simulate = ScanSimulator(path, noise, 0, augmentation=Augmentation())

    def run(images, step, positions):
        batch = simulate(images, step, positions)
        scan = [batch.scan.intensity.nan_to_num(9), batch.scan.dwell]
        encoded = [encode(batch.scan, encoding).x for encoding in ("standard", "reference")]
        return *scan, batch.truth, batch.unblurred, *encoded

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    arguments = (images, torch.tensor(3), torch.arange(10, 16))
    for one, other in zip(run(*arguments), compiled(*arguments), strict=True):
        assert torch.equal(one, other)


def test_alrc():
    torch.manual_seed(0)
    alrc = ALRC(mu1_start=0.5, mu2_start=0.3)
    compiled = torch.compile(ALRC(mu1_start=0.5, mu2_start=0.3), fullgraph=True, backend="eager")
    for _ in range(3):
        losses = torch.rand(5) * 3
        assert torch.equal(compiled(losses), alrc(losses))


def test_weight_and_mean_norm():
    torch.manual_seed(0)
    layers = [WeightNormConv2d(2, 4), WeightNormConv2d(4, 1, norm="none")]
    eager, images = nn.Sequential(*layers), torch.randn(3, 2, 8, 8)
    other = nn.Sequential(WeightNormConv2d(2, 4), WeightNormConv2d(4, 1, norm="none"))
    other.load_state_dict(eager.state_dict())
    compiled = torch.compile(other, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), eager(images))
    torch.testing.assert_close(pending_statistics(compiled), pending_statistics(eager))
