"""Worker context and collectives."""

from stem_complete.distributed.collectives import (
    StatisticsExchange,
    all_reduce_sum,
    barrier,
    gather_objects,
    world_size,
)
from stem_complete.distributed.context import (
    WorkerContext,
    current_context,
    torchrun_context,
    under_torchrun,
)

__all__ = [
    "StatisticsExchange",
    "WorkerContext",
    "all_reduce_sum",
    "barrier",
    "current_context",
    "gather_objects",
    "torchrun_context",
    "under_torchrun",
    "world_size",
]
