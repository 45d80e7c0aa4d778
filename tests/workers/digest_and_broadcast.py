"""Worker: takes rank 0's tensors, and compares them before, after and with one bit flipped.

digest_and_broadcast.py FOLDER
"""

import sys
from pathlib import Path

import torch

from stem_complete.distributed import broadcast_tensors, differing_tensors, torchrun_context

with torchrun_context(use_gpu=False) as context:
    torch.manual_seed(context.rank)
    tensors = {
        "channels_last": torch.randn(3, 5, 7, 7).to(memory_format=torch.channels_last),
        "transposed": torch.nn.Parameter(torch.randn(8, 4).t()),
        "scalar": torch.randn(()),
        "odd": torch.tensor([float("inf"), -0.0, 1e-45]) * (1 if context.rank == 0 else 2),
        "int": torch.tensor(context.rank),
        "bool": torch.arange(11) > 5 + context.rank,
        "bf16": torch.randn(4, 4).to(torch.bfloat16),
        "same": torch.ones(2, 3, dtype=torch.float64),
        "empty": torch.empty(0),
    }
    flips = {"odd": torch.int32, "bf16": torch.int16, "int": torch.int64, "bool": torch.uint8}
    values = list(tensors.values())
    addresses = [tensor.data_ptr() for tensor in values]
    strides = [tensor.stride() for tensor in values]
    before = [tensor.detach().clone() for tensor in values]
    differed = [differing_tensors(tensors)]
    broadcast_tensors(values)
    differed.append(differing_tensors(tensors))
    for name, dtype in flips.items():
        bits = tensors[name].view(dtype)
        kept = bits.clone()
        if context.rank == 1:
            bits.view(-1)[-1] ^= 1
        differed.append(differing_tensors(tensors))
        bits.copy_(kept)
    assert addresses == [tensor.data_ptr() for tensor in values]
    assert strides == [tensor.stride() for tensor in values]
    after = [tensor.detach().clone() for tensor in values]
    torch.save(
        {"before": before, "after": after, "differed": differed},
        Path(sys.argv[1]) / f"{context.rank}.pt",
    )
