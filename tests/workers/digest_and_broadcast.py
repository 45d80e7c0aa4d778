"""Worker: takes rank 0's tensors, and compares digests before, after and with one bit flipped.

digest_and_broadcast.py FOLDER
"""

import sys
from pathlib import Path

import torch

from stem_complete.distributed import (
    all_reduce_sum,
    bit_digest,
    broadcast_tensors,
    collectives,
    ranks_differ,
    torchrun_context,
)

collectives.BUCKET_BYTES = 1000  # several buckets, and tensors that are larger than one


def differ():
    total = all_reduce_sum(bit_digest([t for t in tensors if t.dtype == torch.float32]))
    return bool(ranks_differ(total, context.world_size))


with torchrun_context(use_gpu=False) as context:
    torch.manual_seed(context.rank)
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]) * (1 if context.rank == 0 else 2)
    tensors = [
        torch.randn(3, 5, 7, 7).to(memory_format=torch.channels_last),
        torch.nn.Parameter(torch.randn(8, 4).t()),
        torch.randn(()),
        odd,
        torch.randint(2**40, (10,)),
        torch.tensor(context.rank),
        torch.rand(11) > 0.5,
        torch.randn(4, 4).to(torch.bfloat16),
        torch.randn(2, 3, dtype=torch.float64),
        torch.empty(0),
    ]
    addresses = [tensor.data_ptr() for tensor in tensors]
    strides = [tensor.stride() for tensor in tensors]
    before = [tensor.detach().clone() for tensor in tensors]
    differed = [differ()]
    broadcast_tensors(tensors)
    differed.append(differ())
    if context.rank == 1:
        odd.view(torch.int32)[2] ^= 1
    differed.append(differ())
    assert addresses == [tensor.data_ptr() for tensor in tensors]
    assert strides == [tensor.stride() for tensor in tensors]
    if context.rank == 1:
        odd.view(torch.int32)[2] ^= 1
    after = [tensor.detach().clone() for tensor in tensors]
    torch.save(
        {"before": before, "after": after, "differed": differed},
        Path(sys.argv[1]) / f"{context.rank}.pt",
    )
