"""Collectives in one process, and over two gloo processes that agree."""

import pytest
import torch

from stem_complete import ALRC
from stem_complete.distributed import (
    StatisticsExchange,
    all_reduce_sum,
    gather_objects,
    torchrun_context,
)


def test_collectives_do_nothing_alone():
    values = torch.arange(3.0)
    assert all_reduce_sum(values) is values
    assert gather_objects("x") == ["x"]
    with torchrun_context(use_gpu=False) as context:
        assert not torch.distributed.is_initialized()
    assert (context.rank, context.world_size, context.is_main) == (0, 1, True)


def test_exchange_returns_its_parts_alone():
    exchange = StatisticsExchange()
    parts = {"a": torch.rand(2, 3), "b": torch.tensor(4.0)}
    exchange.start(parts)
    sums = exchange.finish()
    assert sums.keys() == parts.keys()
    for name, part in parts.items():
        assert torch.equal(sums[name], part)


def test_exchange_refuses_disorder():
    exchange = StatisticsExchange()
    with pytest.raises(RuntimeError, match="without start"):
        exchange.finish()
    exchange.start({"a": torch.ones(1)})
    with pytest.raises(RuntimeError, match="without finish"):
        exchange.start({"a": torch.ones(1)})


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
