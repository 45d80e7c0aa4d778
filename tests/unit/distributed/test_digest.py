"""A digest that every bit changes, and whose sum tells whether all workers had the same bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.distributed import DIGEST_SIZE, bit_digest, broadcast_tensors, ranks_differ
from stem_complete.distributed.digest import MAX_WORKERS

ODD = [0.0, -0.0, 1.0, -25.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3.4e38]


def differ(*ranks: list[torch.Tensor]) -> bool:
    digests = [bit_digest(tensors) for tensors in ranks]
    return bool(ranks_differ(torch.stack(digests).sum(0), len(ranks)))


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_every_bit_of_every_value_counts(world_size):
    for place in range(len(ODD)):
        for bit in range(32):
            tensors = [torch.tensor(ODD[:4]), torch.tensor(ODD[4]), torch.tensor([ODD[5:]])]
            flat = torch.tensor(ODD)
            flat.view(torch.int32)[place] ^= (1 << bit) if bit < 31 else -(2**31)
            flipped = [flat[:4], flat[4], flat[5:].unsqueeze(0)]
            assert differ(flipped, *[tensors] * (world_size - 1)), (place, bit)
    assert not differ(*[tensors] * world_size)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=8), st.data())
def test_values_that_change_places_or_by_ulps_are_seen(bits, data):
    first = torch.tensor(bits, dtype=torch.int32)
    second = first.clone()
    for place in range(len(bits)):
        second[place] += data.draw(st.integers(-3, 3))  # wraps round
    same = torch.equal(first, second)
    assert differ([first.view(torch.float32)], [second.view(torch.float32)]) != same
    turned = first.flip(0)
    same = torch.equal(first, turned)
    assert differ([first.view(torch.float32)], [turned.view(torch.float32)]) != same


def test_sums_over_very_many_workers_are_exact():
    # The largest sums there can be: all workers have the largest remainders, and one has less.
    own = torch.tensor([12.0, 16.0, 18.0, 22.0, 28.0, 30.0])
    digest = torch.cat((own, own**2))
    total = torch.zeros(DIGEST_SIZE)
    for _ in range(MAX_WORKERS):
        total += digest
    assert not ranks_differ(total, MAX_WORKERS)
    other = torch.cat((own - 1, (own - 1) ** 2))
    assert ranks_differ(total - digest + other, MAX_WORKERS)
    assert MAX_WORKERS > 16_384


def test_none_have_a_digest_too():
    nothing = bit_digest([], torch.device("cpu"))
    assert torch.equal(nothing, torch.zeros(DIGEST_SIZE))
    assert not ranks_differ(3 * nothing, 3)


def test_only_float32():
    with pytest.raises(ValueError, match="float32"):
        bit_digest([torch.ones(2, dtype=torch.float64)])


def test_broadcast_alone_does_nothing():
    values = torch.arange(3.0)
    broadcast_tensors([values])
    assert values.tolist() == [0, 1, 2]


def test_two_processes_have_the_same_bits_after_a_broadcast(torchrun, tmp_path):
    torchrun("digest_and_broadcast", 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["differed"] == second["differed"] == [True, False, True]
    for given_, own, received in zip(first["before"], first["after"], second["after"], strict=True):
        for tensor in (own, received):
            assert tensor.dtype == given_.dtype
            assert torch.equal(bits_of(tensor), bits_of(given_))


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
