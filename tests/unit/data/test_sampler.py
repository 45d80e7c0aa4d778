"""The order of examples is a function of (seed, step, position)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.data.sampler import (
    epoch_order,
    evenly_spread,
    global_batch,
    worker_positions,
)

counts = st.integers(1, 50)


@given(num_examples=counts, batch_size=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_every_epoch_visits_every_example_once(num_examples, batch_size, seed):
    steps = -(-3 * num_examples // batch_size)
    places = np.concatenate(
        [global_batch(num_examples, seed, step, batch_size) for step in range(steps)]
    )
    for epoch in range(3):
        part = places[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(part) == list(range(num_examples))


def test_epochs_and_seeds_differ():
    orders = [tuple(epoch_order(100, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


@given(
    world_size=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2]),
    step=st.integers(0, 10**9),
)
def test_workers_share_out_the_same_global_batch(world_size, micro, step):
    batch_size = 8
    whole = global_batch(37, 5, step, batch_size)
    parts = [
        whole[positions]
        for rank in range(world_size)
        for positions in worker_positions(rank, world_size, batch_size, micro)
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    assert {len(part) for part in parts} == {micro}


@pytest.mark.parametrize(("world_size", "micro"), [(3, 1), (2, 3)], ids=["workers", "micro"])
def test_uneven_shares_are_refused(world_size, micro):
    with pytest.raises(ValueError, match="does not divide"):
        worker_positions(0, world_size, 8, micro)


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        global_batch(0, 0, 0, 1)


@pytest.mark.parametrize(
    ("size", "number", "expected"),
    [(3, 5, [0, 1, 2]), (6, 3, [0, 2, 4]), (5, 2, [0, 2]), (0, 3, [])],
)
def test_a_choice_is_spread_evenly(size, number, expected):
    assert evenly_spread(np.arange(size), number).tolist() == expected
