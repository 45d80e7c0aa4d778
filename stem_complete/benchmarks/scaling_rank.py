"""One rank of a group that torchrun started: times what it is asked to and leaves the samples.

python -m stem_complete.benchmarks.scaling_rank TASK   # a `Task` as JSON

Without `from __future__ import annotations`: DDP compares the annotations of a hook as objects.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from stem_complete.benchmarks.runs import run_config
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import StatisticsExchange, WorkerContext, torchrun_context
from stem_complete.models import build_network, mean_norm_layers
from stem_complete.training import train

BUCKET_MB = 25.0
WARM_UP_STEPS = 3
PROFILED_STEPS = 4  # after those that are timed
NUM_REPEATS = 2  # of a step of the paper's network
SIDE = 64  # of its image [px]

PACKED, ONE_BY_ONE = "statistics, packed", "statistics, one by one"
STEP, APART, PROFILED, COLLECTIVES = "step", "step, no exchange", "step, profiled", "collectives"
"""Names of times: a step; one of as many processes that exchange nothing; one under the profiler,
and the part of it in which a collective was under way."""

Samples = dict[str, list[float]]
"""Times [s] by what was timed."""


class Task(NamedTuple):
    """What to time.

    Attributes:
        store: What the loop trains on.
        folder: Takes the runs and, in `<rank>.json`, the samples.
        num_steps: Of the training loop.
        all_reduce_bytes: Sizes of all-reduces.
        paper: Whether to time passes of the paper's network, too.
    """

    store: str
    folder: str
    num_steps: int
    all_reduce_bytes: Sequence[int] = ()
    paper: bool = False


def main(task: Task) -> None:
    """Times everything on this rank."""
    torch.set_num_threads(1)
    folder = Path(task.folder)
    samples: Samples = {}
    with torchrun_context(use_gpu=False) as context:
        alone = context.world_size == 1
        if not alone:
            samples |= time_all_reduces(task.all_reduce_bytes) | time_statistics()
        if task.paper:
            samples |= time_paper_gradients(context)
        samples |= time_loop(task, "together", context)
        if not alone:
            dist.barrier()
    if not alone:
        # Without a process group each is a run of its own, beside the others.
        apart = time_loop(task, f"apart-{context.rank}", WorkerContext())
        samples[APART] = apart[STEP]
    (folder / f"{context.rank}.json").write_text(json.dumps(samples))


def time_loop(task: Task, name: str, context: WorkerContext) -> Samples:
    """Steps of the training loop with one crop a rank; on rank 0, which alone is told of them."""
    last = WARM_UP_STEPS + task.num_steps + PROFILED_STEPS + 1  # which validates and saves
    clock = Clock(context.world_size, task.num_steps)
    config = run_config(
        name,
        Path(task.folder),
        Path(task.store),
        f"scaling.num_workers={context.world_size}",
        f"training.batch_size={context.world_size}",
        f"training.steps={last}",
        "training.log_every_steps=1",
    )
    train(config, context, recorder=clock)
    return clock.samples


class Clock:
    """A recorder that times steps, and then profiles some.

    Args:
        batch_size: Of the run, which logs every step.
        num_steps: To time, after the warm-up.
    """

    def __init__(self, batch_size: int, num_steps: int) -> None:
        self.batch_size, self.num_steps = batch_size, num_steps
        self.samples: Samples = {}
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes a step's time from the rate that the loop logs."""
        if "train/examples_per_s" not in values:
            return
        timed = WARM_UP_STEPS + self.num_steps
        if WARM_UP_STEPS < step <= timed:
            seconds = self.batch_size / values["train/examples_per_s"]
            self.samples.setdefault(STEP, []).append(seconds)
        if step == timed:
            self.profiler.start()
            self.profiled_since = time.perf_counter()
        if step == timed + PROFILED_STEPS:
            seconds = time.perf_counter() - self.profiled_since
            self.profiler.stop()
            spans = [
                (event.time_range.start, event.time_range.end)
                for event in self.profiler.events()  # type: ignore[no-untyped-call]
                if event.name.startswith("gloo:")
            ]
            self.samples[PROFILED] = [seconds / PROFILED_STEPS]
            self.samples[COLLECTIVES] = [1e-6 * covered(spans) / PROFILED_STEPS]

    def picture(self, step: int, name: str, image: object) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing to close."""


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals cover together: those of collectives overlap."""
    total = end = 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def time_all_reduces(sizes: Iterable[int]) -> Samples:
    """Sums of float32 vectors of so many bytes."""
    samples: Samples = {}
    for num_bytes in sizes:
        vector = torch.zeros(num_bytes // 4)
        times = samples[f"all-reduce {num_bytes}"] = []
        for _ in range(20 if num_bytes < 2**21 else 5):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(vector)
            times.append(time.perf_counter() - started)
    return samples


def time_statistics() -> Samples:
    """Exchange of what the paper's network has to sum in a step: in one message, and in many."""
    parts = {
        f"{number} {name}": values
        for number, layer in enumerate(mean_norm_layers(build_network("paper")))
        for name, values in (("sum", layer.pending_mean_sum), ("count", layer.pending_count[None]))
    }
    exchange = StatisticsExchange()
    samples: Samples = {PACKED: [], ONE_BY_ONE: []}
    for _ in range(20):
        dist.barrier()
        started = time.perf_counter()
        exchange.start(parts)
        exchange.finish()
        samples[PACKED].append(time.perf_counter() - started)
        dist.barrier()
        started = time.perf_counter()
        for values in parts.values():
            dist.all_reduce(values)
        samples[ONE_BY_ONE].append(time.perf_counter() - started)
    return samples


def time_paper_gradients(context: WorkerContext) -> Samples:
    """Forward and backward pass of the paper's network on a small image, by kind of exchange."""
    network = build_network("paper").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if context.world_size == 1:
        times = [_pass_s(network) for _ in range(2 + 3 * NUM_REPEATS)]
        return {"paper, no exchange": times[2:]}

    kind = "float32"
    group = dist.group.WORLD
    assert group is not None

    def hook(
        _: object,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        exchange = {
            "float32": default_hooks.allreduce_hook,
            "bf16": default_hooks.bf16_compress_hook,
        }[kind]
        return exchange(group, bucket)

    model = DistributedDataParallel(network, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB)
    model.register_comm_hook(None, hook)
    for _ in range(2):  # DDP makes its buckets anew after the first step
        _pass_s(model)
    samples: Samples = {}
    for _ in range(NUM_REPEATS):
        with model.no_sync():
            samples.setdefault("paper, no exchange", []).append(_pass_s(model))
        for kind in ("float32", "bf16"):
            samples.setdefault(f"paper, {kind}", []).append(_pass_s(model))
    return samples


def _pass_s(model: nn.Module) -> float:
    image = torch.randn(1, 2, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    model.zero_grad(set_to_none=True)
    dist.barrier()
    started = time.perf_counter()
    full, half = model(image)
    (full.square().mean() + half.square().mean()).backward()
    return time.perf_counter() - started


def time_reads(path: Path) -> list[float]:
    """Reading and decoding of one crop after the other."""
    store, times = MicrographStore.open(path), []
    for crop in store.indices("train"):
        started = time.perf_counter()
        store.read([crop])
        times.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main(Task(*json.loads(sys.argv[1])))
