"""Collectives of two gloo processes."""

import torch

from stem_complete import ALRC


def test_two_processes_sum_and_agree(torchrun, tmp_path):
    torchrun("exchange", 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for result in (first, second):
        assert result["a"].tolist() == [3.0, 3.0]
        assert result["b"].item() == 10.0
        assert result["names"] == ["rank 0 of 2", "rank 1 of 2"]
    assert torch.equal(first["moments"], second["moments"])
    alone = ALRC(mu1_start=1.0, mu2_start=2.0)
    alone(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    torch.testing.assert_close(first["moments"], torch.stack((alone.mu1, alone.mu2)))
