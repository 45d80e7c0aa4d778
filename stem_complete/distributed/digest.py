"""Whether tensors that should be the same on every worker are, to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stem_complete.distributed.collectives import gather_objects, world_size


def differing_tensors(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Ranks whose bits are not those of rank 0, by tensor; the same answer on every worker.

    Tensors are hashed by `torch.hash_tensor`, the XOR of their values, which any single difference
    changes. Their names have the same order on every worker. Waits for the device, and is a
    collective: for log entries rather than steps.
    """
    if world_size() == 1:
        return {}
    names = [name for name, tensor in tensors.items() if tensor.numel()]
    hashes = torch.stack([torch.hash_tensor(tensors[name].detach()) for name in names]).tolist()
    # One number travels as a rule, and all of them only where those differ.
    if len(set(gather_objects(hash(tuple(hashes))))) == 1:
        return {}
    first, *others = gather_objects(hashes)
    ranks: dict[str, list[int]] = {}
    for rank, found in enumerate(others, 1):
        for name, expected, value in zip(names, first, found, strict=True):
            if value != expected:
                ranks.setdefault(name, []).append(rank)
    return ranks
