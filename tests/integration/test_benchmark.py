"""The benchmark of the user's machine measures what it says."""

import torch

from stem_complete.benchmark import benchmark
from stem_complete.data.store.store import MicrographStore


def test_training_completion_and_loader_are_measured(small_config, small_store):
    store = MicrographStore(small_store)
    found = benchmark(small_config(), store, torch.device("cpu"), rounds=2)
    assert [rate.what.split(",")[0] for rate in found] == [
        "training step",
        "completion by the released model",
        "loader",
    ]
    assert all(len(rate.values) == 2 and min(rate.values) > 0 for rate in found)
