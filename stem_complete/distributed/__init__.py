"""Worker context and collectives."""

from stem_complete.distributed.collectives import (
    StatisticsExchange,
    all_reduce_sum,
    gather_objects,
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
    "gather_objects",
    "torchrun_context",
    "under_torchrun",
]
