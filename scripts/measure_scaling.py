#!/usr/bin/env python
"""Measures training on 1, 2 and 4 gloo ranks of this machine, and the model's error.

  python scripts/measure_scaling.py --output measured.json          # 2 cores: about 4 minutes

Each rank has one thread. In several rounds, 1, 2 and 4 ranks in turn, it times what
`stem-complete benchmark scaling` does, and more:

* all-reduces of several sizes, to which the loopback's latency and bandwidth are fitted;
* the training loop: compact network, one 512x512 crop a rank; and the same as so many processes
  that exchange nothing;
* DDP with the paper's network on a small image, so that the exchange of its 425 MB of gradients
  takes most of the time: without exchange, as float32, as bf16.

The model (`step_time.py`) is given the fitted link and what one rank takes alone, and predicts 2
and 4 ranks. Cores are shared: on c cores n ranks take max(1, n / c) times as long for everything,
compute and exchange, and nothing overlaps, because both need the same cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from step_time import (
    GRADIENT_BYTES,
    STATISTICS_BYTES,
    Cluster,
    Link,
    Training,
    all_reduce_s,
    buckets,
    exposed_exchange_s,
)

from stem_complete.benchmarks.report import machine
from stem_complete.benchmarks.scaling import RANKS, run_group
from stem_complete.benchmarks.scaling_rank import APART, BUCKET_MB, STEP, time_reads
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest
from stem_complete.models import build_network

MESSAGE_BYTES = (4096, STATISTICS_BYTES, 2**20, 2**22, 2**24, max(b for b, _ in buckets(BUCKET_MB)))
NUM_STEPS = 8
OTHERS, READ = "others' cores", "read"

Measured = dict[int, dict[str, list[float]]]
"""Times [s] by number of ranks and by what was timed, see `stem_complete.benchmarks.scaling`."""


class Row(NamedTuple):
    """A prediction and what was measured [s]."""

    what: str
    ranks: int
    predicted: float
    quartiles: tuple[float, float, float]

    @property
    def error(self) -> float:
        """Of the prediction, relative to the measured median."""
        return self.predicted / self.quartiles[1] - 1


def main() -> None:
    """Starts the ranks round by round, then compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON with all samples, hardware, versions")
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "store.zarr"
        ingest(example_micrographs(), store)
        measured = merge(
            {ranks: run(ranks, store, folder / f"{turn}-{ranks}")}
            for turn in range(options.rounds)
            for ranks in RANKS
        )
        measured[1][READ] = time_reads(store)
    link = fitted_link(measured)
    rows = compared(measured, link)
    print(report(measured, link, rows))
    print(f"\n{options.rounds} rounds in {time.perf_counter() - started:.0f} s")
    if options.output:
        result = {
            "machine": machine(),
            "link": vars(link),
            "comparison": [row._asdict() | {"error": row.error} for row in rows],
            "samples_s": measured,
        }
        options.output.write_text(json.dumps(result, indent=1))


def run(ranks: int, store: Path, folder: Path) -> dict[str, list[float]]:
    """Samples of all ranks of one group, and the cores that other processes used meanwhile."""
    started, others = time.perf_counter(), others_s()
    samples = run_group(ranks, folder, store, NUM_STEPS, all_reduce_bytes=MESSAGE_BYTES, paper=True)
    others = (others_s() - others) / (time.perf_counter() - started)
    return samples | {OTHERS: [others]}


def others_s() -> float:
    """CPU time that went to others than this script's ranks, since some time in the past [s]."""
    times, own = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times) - idle - own.ru_utime - own.ru_stime)


def merge(parts: Iterable[Mapping[int, Mapping[str, Sequence[float]]]]) -> Measured:
    """All samples of the same thing in one list."""
    merged: Measured = {}
    for part in parts:
        for ranks, samples in part.items():
            for name, times in samples.items():
                merged.setdefault(ranks, {}).setdefault(name, []).extend(times)
    return merged


def contention(ranks: int) -> float:
    """How many ranks share a core."""
    return max(1.0, ranks / len(os.sched_getaffinity(0)))


def loopback(link: Link, ranks: int) -> Cluster:
    """All ranks in one node; whoever shares a core also waits for it."""
    slowed = Link(link.bandwidth / contention(ranks), link.latency * contention(ranks))
    return Cluster(slowed, slowed, gpus_per_node=ranks)


def fitted_link(measured: Measured) -> Link:
    """Latency and bandwidth with the least squared relative errors over all all-reduces."""
    # The ring's time is linear in both: its coefficients are times of two unit links.
    rows, times = [], []
    for ranks, num_bytes, median in all_reduces(measured):
        unit_latency = all_reduce_s(0, ranks, loopback(Link(1.0, 1.0), ranks), "ring")
        unit_bandwidth = all_reduce_s(num_bytes, ranks, loopback(Link(1.0, 0.0), ranks), "ring")
        rows.append((unit_latency / median, unit_bandwidth / median))
        times.append(1.0)
    latency, per_byte = np.linalg.lstsq(np.array(rows), np.array(times), rcond=None)[0]
    return Link(float(1 / per_byte), float(latency))


def all_reduces(measured: Measured) -> list[tuple[int, int, float]]:
    """(ranks, bytes, median time) of the all-reduces."""
    return [
        (ranks, int(name.split()[1]), float(np.median(times)))
        for ranks, samples in measured.items()
        for name, times in samples.items()
        if name.startswith("all-reduce")
    ]


def compared(measured: Measured, link: Link) -> list[Row]:
    """Predictions from one rank's compute and the link, beside what was measured."""
    alone_loop, alone_paper = (
        float(np.median(measured[1][name])) for name in (STEP, "paper, no exchange")
    )
    compact_bytes = 4 * sum(p.numel() for p in build_network("compact").parameters())
    rows = []
    for ranks in RANKS[1:]:
        samples, cluster = measured[ranks], loopback(link, ranks)

        def add(what: str, predicted: float, times: Sequence[float], ranks: int = ranks) -> None:
            rows.append(Row(what, ranks, predicted, tuple(np.quantile(times, (0.25, 0.5, 0.75)))))

        compute_s = alone_loop * contention(ranks)
        statistics_s = all_reduce_s(STATISTICS_BYTES, ranks, cluster, "ring")
        exchange_s = all_reduce_s(compact_bytes, ranks, cluster, "ring") + statistics_s
        add("loop, no exchange: step", compute_s, samples[APART])
        add("loop: step", compute_s + exchange_s, samples[STEP])

        compute_s = alone_paper * contention(ranks)
        add("paper, no exchange: pass", compute_s, samples["paper, no exchange"])
        unhidden_s = float(np.median(samples["paper, no exchange"]))
        for kind in ("float32", "bf16"):
            training = Training(
                example_s=0.0, compression=kind == "bf16", algorithm="ring", overlap=False
            )
            exchange_s = exposed_exchange_s(training, cluster, ranks, statistics=False)
            times = samples[f"paper, {kind}"]
            add(f"paper, {kind}: exchange", exchange_s, [t - unhidden_s for t in times])
            add(f"paper, {kind}: pass", compute_s + exchange_s, times)
    return rows


def report(measured: Measured, link: Link, rows: Sequence[Row]) -> str:
    """Everything as text with Markdown tables."""
    lines = [f"{name}: {value}" for name, value in machine().items()]
    lines.append(f"gradients: {GRADIENT_BYTES:,} bytes")
    errors = [
        all_reduce_s(num_bytes, ranks, loopback(link, ranks), "ring") / median - 1
        for ranks, num_bytes, median in all_reduces(measured)
    ]
    lines += [
        f"\nLoopback, fitted: {link.bandwidth / 1e9:.2f} GB/s, {link.latency * 1e6:.0f} us a hop; "
        f"errors of the fit {min(errors):+.0%} to {max(errors):+.0%}",
        "\n| all-reduce [bytes] | ranks | fitted [ms] | measured [ms] | quartiles |",
        "| ---: | ---: | ---: | ---: | --- |",
    ]
    for ranks, num_bytes, median in all_reduces(measured):
        low, high = np.quantile(measured[ranks][f"all-reduce {num_bytes}"], (0.25, 0.75))
        fitted = all_reduce_s(num_bytes, ranks, loopback(link, ranks), "ring")
        lines.append(
            f"| {num_bytes:,} | {ranks} | {1e3 * fitted:.2f} | {1e3 * median:.2f} | "
            f"{1e3 * low:.2f} to {1e3 * high:.2f} |"
        )
    lines += [
        "\n| what | ranks | predicted [ms] | measured [ms] | quartiles | error |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        low, median, high = (1e3 * value for value in row.quartiles)
        lines.append(
            f"| {row.what} | {row.ranks} | {1e3 * row.predicted:.0f} | {median:.0f} | "
            f"{low:.0f} to {high:.0f} | {row.error:+.0%} |"
        )
    lines.append("\n| as measured, median [ms] | " + " | ".join(f"{r} ranks" for r in RANKS) + " |")
    lines.append("| --- |" + " ---: |" * len(RANKS))
    for name in (STEP, "paper, no exchange", READ):
        medians = [measured[ranks].get(name) for ranks in RANKS]
        cells = [f"{1e3 * np.median(times):.1f}" if times else "" for times in medians]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cores = [f"{np.median(measured[ranks][OTHERS]):.1f}" for ranks in RANKS]
    lines.append(f"| cores that other processes used meanwhile | {' | '.join(cores)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
