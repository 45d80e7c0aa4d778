"""Weak scaling: the training loop on 1, 2 and 4 gloo ranks of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stem_complete.benchmarks.measure import Comparison, Effort
from stem_complete.benchmarks.runs import ENVIRONMENT, small_store
from stem_complete.benchmarks.scaling_rank import (
    APART,
    COLLECTIVES,
    ONE_BY_ONE,
    PACKED,
    PROFILED,
    STEP,
    Samples,
    Task,
)
from stem_complete.console import track
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest

RANKS = (1, 2, 4)


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Steps of more and more ranks with one crop each, and what exchanging costs them."""
    ranks = RANKS[:2] if effort.quick else RANKS
    store = folder / "store.zarr"
    if effort.quick:
        small_store(store)
    else:
        ingest(example_micrographs(), store)
    size, num_steps = (64, 2) if effort.quick else (512, 8)
    rounds = [
        {
            num_ranks: run_group(num_ranks, folder / f"{number}-{num_ranks}", store, num_steps)
            for num_ranks in ranks
        }
        for number in track(range(effort.rounds), "rounds")
    ]

    def medians(num_ranks: int, name: str) -> list[float]:
        return [float(1e3 * np.median(found[num_ranks][name])) for found in rounds]

    what = f"compact network, {size}x{size}, one crop and one thread a rank"
    alone = medians(1, STEP)
    yield Comparison("training step, 1 rank", "ms", alone, note=what)
    for num_ranks in ranks[1:]:
        steps = medians(num_ranks, STEP)
        name = f"training step, {num_ranks} ranks"
        yield Comparison(name, "ms", steps, "1 rank", alone, note=_shared_cores(num_ranks))
        apart = medians(num_ranks, APART)
        yield Comparison(name, "ms", steps, "as many that exchange nothing", apart)
        yield Comparison(
            f"a collective under way, {num_ranks} ranks",
            "ms",
            medians(num_ranks, COLLECTIVES),
            "training step, profiled",
            medians(num_ranks, PROFILED),
            note="all-reduces of gradients and statistics; waiting for the slower rank counts, and "
            "the backward pass goes on beside",
        )
        yield Comparison(
            f"statistics of the paper's network summed in one message, {num_ranks} ranks",
            "ms",
            medians(num_ranks, PACKED),
            "in a message for each layer's means and counts",
            medians(num_ranks, ONE_BY_ONE),
            note="in training it goes on beside the backward pass, on NCCL's own stream",
        )


def run_group(
    num_ranks: int,
    folder: Path,
    store: Path,
    num_steps: int,
    *,
    all_reduce_bytes: Sequence[int] = (),
    paper: bool = False,
) -> Samples:
    """Samples of all ranks of a group, see `scaling_rank.Task`.

    Raises:
        RuntimeError: It failed.
    """
    folder.mkdir()
    task = Task(str(store), str(folder), num_steps, all_reduce_bytes, paper)
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}")
    rank = ("-m", "stem_complete.benchmarks.scaling_rank", json.dumps(task))
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, *torchrun, *rank],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    samples: Samples = {}
    for file in folder.glob("*.json"):
        for name, times in json.loads(file.read_text()).items():
            samples.setdefault(name, []).extend(times)
    return samples


def _shared_cores(num_ranks: int) -> str:
    cores = len(os.sched_getaffinity(0))
    if num_ranks <= cores:
        return ""
    return f"{num_ranks} ranks share {cores} cores: {num_ranks / cores:g} is what these allow"
