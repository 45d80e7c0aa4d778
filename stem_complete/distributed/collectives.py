"""Collectives over all workers; each does nothing in a single process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of workers in the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum of `values` over all workers, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


class _SumWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        # What a worker gave went into the sums of all.
        return all_reduce_sum(gradient.clone())


def all_reduce_sum_with_gradient(values: Tensor) -> Tensor:
    """Sum of `values` over all workers, through which gradients of all workers' losses come back.

    As it waits in the backward pass, too, all workers must have the same graph.
    """
    found: Tensor = _SumWithGradient.apply(values)  # type: ignore[no-untyped-call]
    return found


def gather_objects(value: object) -> list[Any]:
    """Values of all workers, in order of rank. For small values now and then: they are pickled."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Copies rank 0's values to all workers, in place; for once in a run, as each goes by itself.

    They have the same shapes and dtypes in the same order on every worker, and any memory format.
    """
    if world_size() == 1:
        return
    on_gpu = dist.get_backend() == "nccl"  # it takes no tensors in host memory
    with torch.no_grad():
        for tensor in tensors:
            sent = (tensor.cuda() if on_gpu else tensor).contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


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
        assert self._flat is None, "start was called twice without finish"
        self._parts = {name: part.detach() for name, part in parts.items()}
        self._flat = torch.cat([part.reshape(-1) for part in self._parts.values()])
        if world_size() > 1:
            self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> dict[str, Tensor]:
        """The sums, by name."""
        assert self._flat is not None, "finish was called without start"
        if self._work is not None:
            self._work.wait()
        totals = torch.split(self._flat, [part.numel() for part in self._parts.values()])
        sums = {
            name: total.reshape(part.shape)
            for (name, part), total in zip(self._parts.items(), totals, strict=True)
        }
        self._parts, self._flat, self._work = {}, None, None
        return sums
