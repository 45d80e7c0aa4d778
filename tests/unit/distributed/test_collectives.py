"""Collectives of a single process."""

import pytest
import torch

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
    with pytest.raises(AssertionError, match="without start"):
        exchange.finish()
    exchange.start({"a": torch.ones(1)})
    with pytest.raises(AssertionError, match="without finish"):
        exchange.start({"a": torch.ones(1)})
