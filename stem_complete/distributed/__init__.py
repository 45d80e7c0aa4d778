"""Worker context, collectives, and checks against workers that differ, fail or hang."""

from stem_complete.distributed.checks import agree, all_ok, environment, from_main
from stem_complete.distributed.collectives import (
    StatisticsExchange,
    all_reduce_sum,
    broadcast_tensors,
    gather_objects,
    world_size,
)
from stem_complete.distributed.compression import bf16_gradients
from stem_complete.distributed.context import (
    LONG_PHASE_S,
    PROCESS_GROUP_TIMEOUT_S,
    WorkerContext,
    torchrun_context,
    under_torchrun,
)
from stem_complete.distributed.cores import num_cores, one_thread, set_threads
from stem_complete.distributed.delayed import DelayedFlags
from stem_complete.distributed.digest import differing_tensors
from stem_complete.distributed.watchdog import Watchdog, is_collective_error

__all__ = [
    "LONG_PHASE_S",
    "PROCESS_GROUP_TIMEOUT_S",
    "DelayedFlags",
    "StatisticsExchange",
    "Watchdog",
    "WorkerContext",
    "agree",
    "all_ok",
    "all_reduce_sum",
    "bf16_gradients",
    "broadcast_tensors",
    "differing_tensors",
    "environment",
    "from_main",
    "gather_objects",
    "is_collective_error",
    "num_cores",
    "one_thread",
    "set_threads",
    "torchrun_context",
    "under_torchrun",
    "world_size",
]
