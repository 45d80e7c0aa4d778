"""Collectives over all workers; each does nothing in a single process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 64 * 2**20
"""Memory for a broadcast of many tensors [bytes]."""


def world_size() -> int:
    """Number of workers in the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum of `values` over all workers, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather_objects(value: object) -> list[Any]:
    """Values of all workers, in order of rank. For small values now and then: they are pickled."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Copies rank 0's values to all workers, in place, in few large broadcasts.

    Args:
        tensors: The same shapes and dtypes in the same order on every worker; any memory format.
    """
    if world_size() == 1:
        return
    on_gpu = dist.get_backend() == "nccl"  # it takes no tensors in host memory
    with torch.no_grad():
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            flat = flat.to("cuda") if on_gpu else flat
            dist.broadcast(flat, src=0)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Groups of tensors of one dtype and device, of up to `BUCKET_BYTES` or of a single tensor."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for same in kinds.values():
        bucket: list[Tensor] = []
        for tensor in same:
            if bucket and sum(t.nbytes for t in [*bucket, tensor]) > BUCKET_BYTES:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


class StatisticsExchange:
    """Sums all statistics of a step over all workers in one flat, asynchronous all-reduce.

    Statistics are small and many (loss moments, channel means, flags), and the time of a small
    all-reduce is latency; so they travel together, while the backward pass runs.

        exchange = StatisticsExchange()
        exchange.start({"losses": losses, "means": means})   # returns at once
        loss.backward()
        sums = exchange.finish()                             # waits; same names and shapes
    """

    def __init__(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._flat: Tensor | None = None
        self._work: dist.Work | None = None

    def start(self, parts: Mapping[str, Tensor]) -> None:
        """Begins to sum float32 tensors that have the same names and shapes on every worker."""
        if self._flat is not None:
            raise RuntimeError("start was called twice without finish")
        self._parts = {name: part.detach() for name, part in parts.items()}
        self._flat = torch.cat([part.reshape(-1) for part in self._parts.values()])
        if world_size() > 1:
            self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> dict[str, Tensor]:
        """The sums, by name."""
        if self._flat is None:
            raise RuntimeError("finish was called without start")
        if self._work is not None:
            self._work.wait()
        sizes = [part.numel() for part in self._parts.values()]
        sums = {
            name: total.reshape(part.shape)
            for (name, part), total in zip(
                self._parts.items(), torch.split(self._flat, sizes), strict=True
            )
        }
        self._parts, self._flat, self._work = {}, None, None
        return sums
