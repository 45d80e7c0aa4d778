"""Micro-batches are what the sampler says, whoever reads them."""

import numpy as np
import pytest
import torch

from stem_complete.data.loader import training_batches
from stem_complete.data.sampler import global_batch
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import StoreError

BATCH = {"seed": 3, "batch_size": 4}


def load(store, steps, **changes):
    return list(
        training_batches(
            MicrographStore(store), steps=steps, **BATCH, **({"micro_batch_size": 2} | changes)
        )
    )


def test_batches_hold_what_the_sampler_says(small_store):
    store = MicrographStore(small_store)
    train = store.indices("train")
    batches = load(small_store, range(3))
    assert len(batches) == 6
    for number, batch in enumerate(batches):
        step, part = divmod(number, 2)
        assert batch.positions.tolist() == [2 * part, 2 * part + 1]
        expected = train[global_batch(len(train), 3, step, 4)][batch.positions.numpy()]
        assert np.array_equal(batch.indices.numpy(), expected)
        np.testing.assert_array_equal(batch.examples.numpy(), store.read(expected))
        assert batch.examples.dtype == torch.float32


def test_a_resumed_loader_goes_on_where_it_stopped(small_store):
    whole, rest = load(small_store, range(5)), load(small_store, range(3, 5))
    for one, other in zip(whole[6:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_share_the_batch(small_store, world_size):
    whole = load(small_store, range(2), micro_batch_size=4)
    parts = [
        load(small_store, range(2), micro_batch_size=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    share = 4 // world_size
    for step in range(2):
        crops = [b.indices for rank in parts for b in rank[step * share : (step + 1) * share]]
        assert torch.equal(torch.cat(crops), whole[step].indices)


class Vectors:
    """Examples of another kind: six vectors of three numbers."""

    def indices(self, split):
        return np.arange(6) if split == "train" else np.arange(0)

    def read(self, indices):
        return np.stack([np.full(3, index, np.float64) for index in indices])

    def __len__(self):
        return 6

    def first(self, count):
        return self

    def fingerprint(self):
        return "vectors"


def test_any_examples_can_be_loaded():
    batches = list(
        training_batches(Vectors(), steps=range(3), seed=0, batch_size=2, micro_batch_size=2)
    )
    for batch in batches:
        assert (batch.examples.shape, batch.examples.dtype) == ((2, 3), torch.float64)
        assert batch.examples[:, 0].tolist() == batch.indices.tolist()
    assert sorted(index for batch in batches for index in batch.indices.tolist()) == [*range(6)]


ERRORS = [RuntimeError("a bug"), StoreError(expected="", found="", where="", fix="")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_of_reading_arrive_as_they_are(error):
    class Broken(Vectors):
        def read(self, indices):
            raise error

    with pytest.raises(type(error)) as caught:
        next(training_batches(Broken(), steps=range(3), seed=0, batch_size=2, micro_batch_size=2))
    assert caught.value is error


def test_loading_leaves_the_global_random_numbers_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    next(training_batches(Vectors(), steps=range(3), seed=0, batch_size=2, micro_batch_size=2))
    assert torch.equal(torch.get_rng_state(), state)
