"""One rank of `measure_scaling.py`, started by torchrun: times things and leaves the samples.

scaling_worker.py STORE FOLDER
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from step_time import STATISTICS_BYTES, buckets
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from stem_complete.config import load_config
from stem_complete.data.store import MicrographStore
from stem_complete.distributed import StatisticsExchange, WorkerContext, torchrun_context
from stem_complete.models import build_network
from stem_complete.training import train

BUCKET_MB = 25.0
MESSAGE_BYTES = (4096, STATISTICS_BYTES, 2**20, 2**22, 2**24, max(b for b, _ in buckets(BUCKET_MB)))
NUM_STEPS, NUM_WARM_UP_STEPS = 8, 3  # of the loop
NUM_REPEATS = 2  # of a step of the paper's network
SIDE = 64  # of its image [px]

Samples = dict[str, list[float]]
"""Times [s] by what was timed."""


def main(store: Path, folder: Path) -> None:
    """Times everything on this rank."""
    torch.set_num_threads(1)
    samples: Samples = {}
    with torchrun_context(use_gpu=False) as context:
        alone = context.world_size == 1
        if not alone:
            samples |= time_all_reduces()
        samples |= time_paper_gradients(context)
        steps, waits = time_loop(store, folder, "together", context)
        samples |= {"loop": steps, "loop, statistics": waits}
        if not alone:
            dist.barrier()
    if alone:
        samples["read"] = time_reads(store)
    else:
        # Without a process group each is a run of its own, beside the others.
        samples["loop, no exchange"], _ = time_loop(
            store, folder, f"apart-{context.rank}", WorkerContext()
        )
    (folder / f"{context.rank}.json").write_text(json.dumps(samples))


def time_all_reduces() -> Samples:
    """Sums of vectors of each size."""
    samples: Samples = {}
    for num_bytes in MESSAGE_BYTES:
        vector = torch.zeros(num_bytes // 4)
        times = samples[f"all-reduce {num_bytes}"] = []
        for _ in range(20 if num_bytes < 2**21 else 5):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(vector)
            times.append(time.perf_counter() - started)
    return samples


def time_paper_gradients(context: WorkerContext) -> Samples:
    """Forward and backward pass of the paper's network on a small image, by kind of exchange."""
    network = build_network("paper").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if context.world_size == 1:
        times = [_pass_s(network) for _ in range(2 + 3 * NUM_REPEATS)]
        return {"paper, no exchange": times[2:]}

    kind = "float32"

    def hook(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        exchange = {
            "float32": default_hooks.allreduce_hook,
            "bf16": default_hooks.bf16_compress_hook,
        }[kind]
        return exchange(dist.group.WORLD, bucket)

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


def time_loop(
    store: Path, folder: Path, name: str, context: WorkerContext
) -> tuple[list[float], list[float]]:
    """Steps of the training loop with one crop a rank; the waits for statistics in them."""
    config = load_config(
        [Path(__file__).parent.parent / "configs" / "compact.yaml"],
        [
            f"name={name}",
            f"storage={folder}",
            f"data.store={store}",
            f"scaling.num_workers={context.world_size}",
            f"training.batch_size={context.world_size}",
            f"training.steps={NUM_WARM_UP_STEPS + NUM_STEPS}",
            "model.weight_norm_init=false",
            "training.log_every_steps=1",
            "training.validation_examples=1",
            "training.num_pictures=0",
        ],
    )
    steps, waits = Steps(context.world_size), []
    finish = StatisticsExchange.finish

    def timed_finish(exchange: StatisticsExchange) -> dict[str, Tensor]:
        started = time.perf_counter()
        sums = finish(exchange)
        waits.append(time.perf_counter() - started)
        return sums

    StatisticsExchange.finish = timed_finish  # type: ignore[method-assign]
    try:
        train(config, context, recorder=steps)
    finally:
        StatisticsExchange.finish = finish  # type: ignore[method-assign]
    return steps.times[NUM_WARM_UP_STEPS:], waits[NUM_WARM_UP_STEPS:]


class Steps:
    """A recorder that keeps the time of each step; only rank 0 has one that is told."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.times: list[float] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Takes the time from the rate that the loop logs every step."""
        if "train/examples_per_s" in values:
            self.times.append(self.batch_size / values["train/examples_per_s"])

    def picture(self, step: int, name: str, image: object) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing to close."""


def time_reads(path: Path) -> list[float]:
    """Reading and decoding of one crop after the other."""
    store, times = MicrographStore.open(path), []
    for crop in store.indices("train"):
        started = time.perf_counter()
        store.read([crop])
        times.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
