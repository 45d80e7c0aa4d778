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
    torchrun_context,
    under_torchrun,
)

__all__ = [
    "StatisticsExchange",
    "WorkerContext",
    "all_reduce_sum",
    "barrier",
    "gather_objects",
    "torchrun_context",
    "under_torchrun",
    "world_size",
]
