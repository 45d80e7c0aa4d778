#!/usr/bin/env python
"""Predicts the time of a training step of the paper's network on 1 to 1,024 GPUs.

  python scripts/scaling_model.py                                   # 8 x H100 a node, 8 x NDR
  python scripts/scaling_model.py --gpu a100 --link hdr --gpus-per-node 4 --nics 2
  python scripts/scaling_model.py --gpu a100 --intra pcie4 --link 25gbe --gpus-per-node 4
  python scripts/scaling_model.py --global-batch 1024               # strong scaling
  python scripts/scaling_model.py --ms-per-example 2.4 --plot scaling.png

Formulas, sources and what is left out: cluster/SCALING.md. Needs neither torch nor a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from step_time import (
    CHECKPOINT_BYTES,
    FLOP_PER_EXAMPLE,
    NUM_PARAMETERS,
    Cluster,
    Link,
    Step,
    Training,
    step_time,
)


@dataclass(frozen=True)
class GPU:
    """Dense peaks [FLOP/s], the fraction of them that is sustained, bandwidths [byte/s]."""

    peak: dict[str, float]
    sustained: dict[str, float]
    memory: float
    host: float
    intra: str


# Peaks and bandwidths: NVIDIA's data sheets (SXM, 80 GB). What is sustained is an assumption a
# little below the roofline in SCALING.md; give --ms-per-example where you have measured it.
GPUS = {
    "h100": GPU(
        peak={"bf16": 989e12, "tf32": 495e12, "fp32": 67e12},
        sustained={"bf16": 0.2, "tf32": 0.2, "fp32": 0.45},
        memory=3.35e12,
        host=64e9,
        intra="nvlink4",
    ),
    "a100": GPU(
        peak={"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
        sustained={"bf16": 0.28, "tf32": 0.28, "fp32": 0.5},
        memory=2.04e12,
        host=32e9,
        intra="nvlink3",
    ),
}
# Line rate of one direction [byte/s] and latency of a hop [s]. Latencies are those of NCCL's own
# model (src/graph/tuning.cc, ring, LL128); that of TCP is an assumption.
INTRA_LINKS = {
    "nvlink4": (450e9, 1.9e-6),
    "nvlink3": (300e9, 1.9e-6),
    "pcie5": (64e9, 2.5e-6),
    "pcie4": (32e9, 2.5e-6),
}
INTER_LINKS = {
    "ndr": (50e9, 4e-6),
    "hdr": (25e9, 4e-6),
    "100gbe": (12.5e9, 30e-6),
    "25gbe": (3.125e9, 30e-6),
    "10gbe": (1.25e9, 30e-6),
}
LINK_FRACTION = 0.8  # of a line rate, and of a memory's bandwidth, that is reached
# Memory traffic per parameter [byte]: weight norm of a micro-batch; gradient norm and fused Adam.
WEIGHT_NORM_TRAFFIC, OPTIMIZER_TRAFFIC = 50, 32
NUM_KERNELS, LAUNCH_S = 1600, 5e-6  # of a micro-batch, counted with torch.profiler; assumed


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser().parse_args(arguments)
    training, cluster = training_of(options), cluster_of(options)
    shares = {
        num_gpus: shared_out(training, options.global_batch, num_gpus)
        for num_gpus in powers_of_two(options.max_gpus)
        if (options.global_batch or num_gpus) % num_gpus == 0
    }
    last = max(shares)
    steps = [step_time(share, cluster, num_gpus) for num_gpus, share in shares.items()]
    gains = switches(shares[last], cluster, last)
    if options.json:
        rows = [
            step._asdict()
            | {"total": step.total, "efficiency": efficiency(step, steps[0]), "limit": step.limit}
            for step in steps
        ]
        print(json.dumps({"steps": rows, "switches": gains}))
    else:
        print(table(steps))
        print(f"\nOne switch at a time on {last} GPUs, examples/s relative to the table's:")
        for name, gain in gains.items():
            print(f"  {name:26s} {gain:6.2f}")
    if options.plot:
        plot(steps, options.plot)


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    commands = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = commands.add_argument
    add("--gpu", choices=GPUS, default="h100")
    add("--precision", choices=("bf16", "tf32", "fp32"), default="bf16", help="of convolutions")
    add("--sustained", type=float, help="fraction of the peak; default: the GPU's, see the script")
    add("--ms-per-example", type=float, help="measured forward and backward pass, instead")
    add("--intra", choices=INTRA_LINKS, help="between the GPUs of a node; default: the GPU's")
    add("--link", choices=INTER_LINKS, default="ndr", help="of one network card")
    add("--gpus-per-node", type=positive, default=8)
    add(
        "--nics",
        type=positive,
        help="cards per node; default: one per GPU, with Ethernet one in all",
    )
    add("--batch", type=positive, default=8, help="examples per GPU and forward pass")
    add("--accumulation", type=positive, default=1, help="forward passes per step")
    add("--global-batch", type=positive, help="strong scaling: examples per step over all GPUs")
    add("--compression", choices=("none", "bf16"), default="none", help="of gradients")
    add("--bucket-mb", type=float, default=25.0)
    add("--algorithm", choices=("auto", "ring", "tree", "hierarchical"), default="auto")
    add("--loaders", type=int, default=4, help="reading processes per GPU")
    add("--read-ms", type=float, default=2.0, help="reading and decoding a crop in one of them")
    add("--storage-gb-s", type=float, default=float("inf"), help="of shared storage, in all")
    add("--max-gpus", type=positive, default=1024)
    add("--json", action="store_true", help="for programs: all parts of each step [s]")
    add("--plot", type=Path, metavar="FILE", help="draw a figure")
    return commands


def training_of(options: argparse.Namespace) -> Training:
    """What one GPU does in a step."""
    gpu = GPUS[options.gpu]
    fraction = options.sustained or gpu.sustained[options.precision]
    example_s = FLOP_PER_EXAMPLE / (fraction * gpu.peak[options.precision])
    if options.ms_per_example:
        example_s = options.ms_per_example / 1e3
    pass_s = NUM_PARAMETERS / (LINK_FRACTION * gpu.memory)  # of one byte per parameter
    return Training(
        example_s=example_s,
        micro_batch=options.batch,
        accumulation=options.accumulation,
        weight_norm_s=WEIGHT_NORM_TRAFFIC * pass_s,
        optimizer_s=OPTIMIZER_TRAFFIC * pass_s,
        launch_s=NUM_KERNELS * LAUNCH_S,
        compression=options.compression == "bf16",
        bucket_mb=options.bucket_mb,
        algorithm=options.algorithm,
        loaders=options.loaders,
        read_s=options.read_ms / 1e3,
        storage_bandwidth=options.storage_gb_s * 1e9,
        checkpoint_s=CHECKPOINT_BYTES / (LINK_FRACTION * gpu.host),
    )


def cluster_of(options: argparse.Namespace) -> Cluster:
    """Links as the model sees them: what they reach, and a node's cards together."""
    intra, intra_latency = INTRA_LINKS[options.intra or GPUS[options.gpu].intra]
    inter, inter_latency = INTER_LINKS[options.link]
    nics = options.nics or (1 if options.link.endswith("gbe") else options.gpus_per_node)
    return Cluster(
        Link(LINK_FRACTION * intra, intra_latency),
        Link(LINK_FRACTION * nics * inter, inter_latency),
        options.gpus_per_node,
    )


def switches(training: Training, cluster: Cluster, num_gpus: int) -> dict[str, float]:
    """Examples/s with one switch turned each, relative to those as it is."""
    turned = {
        "gradients as bf16": replace(training, compression=True),
        "buckets of 5 MiB": replace(training, bucket_mb=5.0),
        "buckets of 100 MiB": replace(training, bucket_mb=100.0),
        "flat ring": replace(training, algorithm="ring"),
        "hierarchical all-reduce": replace(training, algorithm="hierarchical"),
        "4 x accumulation, 4 x batch": replace(training, accumulation=4 * training.accumulation),
    }
    before = step_time(training, cluster, num_gpus).examples_per_s
    return {
        name: step_time(this, cluster, num_gpus).examples_per_s / before
        for name, this in turned.items()
    }


def efficiency(step: Step, alone: Step) -> float:
    """Examples/s per GPU, relative to those of one GPU."""
    return step.examples_per_s / step.num_gpus / (alone.examples_per_s / alone.num_gpus)


def table(steps: Sequence[Step]) -> str:
    """Steps as a Markdown table; parts in % of the step."""
    lines = [
        "| GPUs | batch | step [ms] | compute | gradients | statistics | other | efficiency | "
        "examples/s | largest part |",
        "| ---: " * 9 + "| --- |",
    ]
    for step in steps:
        known = step.compute, step.gradients, step.statistics
        shares = [100 * part / step.total for part in (*known, step.total - sum(known))]
        lines.append(
            f"| {step.num_gpus:,} | {step.global_batch:,} | {1e3 * step.total:.1f} | "
            + " | ".join(f"{share:.1f}" for share in shares)
            + f" | {100 * efficiency(step, steps[0]):.0f} % | {step.examples_per_s:,.0f} | "
            f"{step.limit} |"
        )
    return "\n".join(lines)


def plot(steps: Sequence[Step], file: Path) -> None:
    """Draws the parts of a step and the efficiency over the number of GPUs."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    gpus = [step.num_gpus for step in steps]
    parts = {name: [1e3 * step.parts[name] for step in steps] for name in steps[0].parts}
    shown = {name: values for name, values in parts.items() if max(values) > 0}
    left.stackplot(gpus, list(shown.values()), labels=[name.replace("_", " ") for name in shown])
    left.set(xscale="log", xlabel="GPUs", ylabel="step [ms]")
    left.legend(loc="upper left", fontsize="small")
    right.plot(gpus, [100 * efficiency(step, steps[0]) for step in steps], "o-")
    right.set(xscale="log", xlabel="GPUs", ylabel="efficiency [%]", ylim=(0, 105))
    for axes in (left, right):
        axes.set_xticks(gpus, [str(n) for n in gpus], fontsize="small")
        axes.minorticks_off()
    figure.savefig(file, dpi=150)
    plt.close(figure)


def positive(text: str) -> int:
    """A number from the command line that must be at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... up to `largest`."""
    return [2**exponent for exponent in range(largest.bit_length())]


def shared_out(training: Training, global_batch: int | None, num_gpus: int) -> Training:
    """Training on one of so many GPUs; with a global batch its share of that."""
    if global_batch is None:
        return training
    share = global_batch // num_gpus
    micro_batch = math.gcd(training.micro_batch, share)
    return replace(training, micro_batch=micro_batch, accumulation=share // micro_batch)


if __name__ == "__main__":
    main()
