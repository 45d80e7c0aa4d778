"""Micro-batches are what the sampler says, whoever reads them."""

import numpy as np
import pytest
import torch

from stem_complete.data.loader import training_batches
from stem_complete.data.sampler import global_batch
from stem_complete.data.store import MicrographStore

BATCH = {"seed": 3, "batch_size": 4}


def load(store, steps, **changes):
    return list(
        training_batches(
            MicrographStore.open(store), steps=steps, **BATCH, **({"micro_batch_size": 2} | changes)
        )
    )


def test_batches_hold_what_the_sampler_says(small_store):
    store = MicrographStore.open(small_store)
    train = store.indices("train")
    batches = load(small_store, range(3))
    assert len(batches) == 6
    for number, batch in enumerate(batches):
        step, part = divmod(number, 2)
        assert batch.positions.tolist() == [2 * part, 2 * part + 1]
        expected = train[global_batch(len(train), 3, step, 4)][batch.positions.numpy()]
        assert np.array_equal(batch.crops.numpy(), expected)
        np.testing.assert_array_equal(batch.images[:, 0].numpy(), store.read(expected))
        assert batch.images.dtype == torch.float32


def test_a_resumed_loader_goes_on_where_it_stopped(small_store):
    whole, rest = load(small_store, range(5)), load(small_store, range(3, 5))
    for one, other in zip(whole[6:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_share_the_batch(small_store, world_size):
    whole = load(small_store, range(2), micro_batch_size=4)
    parts = [
        load(small_store, range(2), micro_batch_size=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    share = 4 // world_size
    for step in range(2):
        crops = [b.crops for rank in parts for b in rank[step * share : (step + 1) * share]]
        assert torch.equal(torch.cat(crops), whole[step].crops)


def test_spawned_readers_give_the_same_batches(small_store):
    here, elsewhere = load(small_store, range(2)), load(small_store, range(2), num_processes=1)
    for one, other in zip(here, elsewhere, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
