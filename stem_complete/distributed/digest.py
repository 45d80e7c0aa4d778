"""Whether tensors have the same bits on every worker, asked in a few floats of an all-reduce.

Each worker sums the bits of its tensors, with weights, modulo six small primes. Such a sum h is a
small integer, so that float32 adds it up exactly over all workers; with h^2 beside it every worker
sees at once whether all sums were the same, because `W * sum(h^2) = sum(h)^2` holds for equal h
only (Cauchy and Schwarz).

One flipped bit changes a sum by +-weight * 2^n, which no odd prime above the weight divides: it
never passes. Any other difference passes with a chance of about one in 87 million, the product of
the primes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_PRIMES = (13, 17, 19, 23, 29, 31)
DIGEST_SIZE = 2 * len(_PRIMES)
MAX_WORKERS = 2**24 // (max(_PRIMES) - 1) ** 2
"""Up to so many workers the sums are exact in float32."""


def bit_digest(tensors: Sequence[Tensor], device: torch.device | None = None) -> Tensor:
    """Digest to be summed over workers, [12] float32; depends on every bit.

    Does not wait for the device.

    Args:
        tensors: Of float32, on one device; none have a digest of zeros.
        device: That one; must be given if there may be no tensors.
    """
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        raise ValueError("tensors must be float32")
    flat = [tensor.detach().reshape(-1) for tensor in tensors] or [torch.empty(0, device=device)]
    bits = torch.cat(flat).view(torch.int32)
    primes, weights = _primes_and_weights(len(bits), bits.device)
    sums = ((bits % primes) * weights).sum(1) % primes.squeeze(1)
    return torch.cat((sums, sums.square())).float()


def ranks_differ(total: Tensor, world_size: int) -> Tensor:
    """Whether not all workers had the same bits, [] bool; the same answer on every worker.

    Args:
        total: Sum of all workers' `bit_digest`.
        world_size: Their number, at most `MAX_WORKERS`.
    """
    sums, squares = total.double().view(2, len(_PRIMES))
    return torch.any(squares * world_size != sums.square())


@cache
def _primes_and_weights(num_values: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Primes, [6, 1], and a weight from 1 to prime - 1 per value, [6, num_values]; on the device.

    Made once: a tensor of Python numbers takes the host to the device and back.
    """
    primes = torch.tensor(_PRIMES, dtype=torch.int64).unsqueeze(1)
    # Weights at random: with regular ones, neighbours that differ by an ulp or two would cancel.
    random = torch.Generator().manual_seed(0)
    weights = 1 + torch.randint(2**31, (len(_PRIMES), num_values), generator=random) % (primes - 1)
    return primes.to(device), weights.to(device)
