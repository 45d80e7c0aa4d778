"""Tensors that should be the same on every worker: broadcast, and compared to the bit."""

import torch

from stem_complete.distributed import broadcast_tensors, differing_tensors


def test_one_process_differs_from_none():
    values = torch.arange(3.0)
    broadcast_tensors([values])
    assert values.tolist() == [0, 1, 2]
    assert differing_tensors({"values": values}) == {}


def test_two_processes_have_the_same_bits_after_a_broadcast(torchrun, tmp_path):
    """Of any dtype and memory format; one bit that flips is found, and named."""
    torchrun("digest_and_broadcast", 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    before, after, *flipped = first["differed"]
    assert second["differed"] == first["differed"]
    # The others are empty, or were the same before.
    assert before == {
        name: [1]
        for name in ["channels_last", "transposed", "scalar", "odd", "int", "bool", "bf16"]
    }
    assert after == {}
    assert flipped == [{name: [1]} for name in ("odd", "bf16", "int", "bool")]
    for given_, own, received in zip(first["before"], first["after"], second["after"], strict=True):
        for tensor in (own, received):
            assert tensor.dtype == given_.dtype
            assert torch.equal(bits_of(tensor), bits_of(given_))


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
