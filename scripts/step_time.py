"""Time of a training step of the paper's network on many GPUs, from a few numbers.

The formulas, their sources and what they leave out are in cluster/SCALING.md; `scaling_model.py` is
the command. Units are seconds and bytes throughout. Plain Python: needs neither torch nor a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Convolution(NamedTuple):
    """A weight-normalised convolution, as data."""

    in_channels: int
    out_channels: int
    kernel_size: int
    side: int  # of its output, or of its input if transposed: the smaller one at stride 2 [px]
    mean_norm: bool = True

    @property
    def num_parameters(self) -> int:
        """Weights v and one scale g for each output channel."""
        return (self.in_channels * self.kernel_size**2 + 1) * self.out_channels

    @property
    def num_macs(self) -> int:
        """Multiply-accumulates of a forward pass of one example."""
        return self.in_channels * self.out_channels * (self.kernel_size * self.side) ** 2


# The paper's network on a 512x512 scan, in the order of its forward pass; a test compares it with
# `stem_complete.models.build_network("paper")`.
LAYERS: tuple[Convolution, ...] = (
    # Inner generator: down, residual blocks, up.
    Convolution(2, 64, 5, 256),
    Convolution(64, 128, 3, 128),
    Convolution(128, 256, 3, 64),
    Convolution(256, 512, 3, 32),
    Convolution(512, 768, 3, 16),
    *[Convolution(768, 768, 3, 16)] * 18,
    Convolution(768, 512, 3, 16),
    Convolution(512, 256, 3, 32),
    Convolution(256, 128, 3, 64),
    Convolution(128, 64, 3, 128),
    # Outer generator.
    Convolution(2, 32, 5, 512),
    Convolution(32, 64, 3, 256),
    *[Convolution(64, 64, 3, 256)] * 9,
    Convolution(64, 32, 3, 256),
    Convolution(32, 32, 3, 512),
    Convolution(32, 1, 3, 512, mean_norm=False),
    # Trainer.
    Convolution(64, 64, 3, 256),
    Convolution(64, 1, 3, 256, mean_norm=False),
)
NUM_PARAMETERS = sum(layer.num_parameters for layer in LAYERS)
# The backward pass takes twice the forward pass; nobody asks for a gradient of the images.
FLOP_PER_EXAMPLE = sum((4 if c.in_channels == 2 else 6) * c.num_macs for c in LAYERS)

GRADIENT_BYTES = 4 * NUM_PARAMETERS
CHECKPOINT_BYTES = 3 * GRADIENT_BYTES  # weights and Adam's two moments
# Of each mean norm the sums of its channels and their count; of both ALRCs four sums; of the loop
# 6 losses and counts, 12 numbers by which replicas are compared, a flag.
NUM_MEANS = sum(layer.out_channels + 1 for layer in LAYERS if layer.mean_norm)
NUM_ALRC, NUM_LOOP = 8, 19
STATISTICS_BYTES = 4 * (NUM_MEANS + NUM_ALRC + NUM_LOOP)
CROP_BYTES = 2 * 512**2  # uint16

TREE_FRACTION = 0.9  # of a ring's bandwidth: NCCL's own model, src/graph/tuning.cc


@dataclass(frozen=True)
class Link:
    """One direction of a link: bandwidth that large messages reach [byte/s], latency of a hop."""

    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Cluster:
    """Nodes of GPUs: links between the GPUs of a node, and of a whole node to the others."""

    intra: Link
    inter: Link
    gpus_per_node: int


@dataclass(frozen=True)
class Training:
    """What a GPU does in a step.

    Attributes:
        example_s: Forward and backward pass of an example.
        micro_batch: Examples per forward pass and GPU.
        accumulation: Micro-batches per step.
        weight_norm_s: Weight normalisation of a micro-batch, forward and backward.
        optimizer_s: Norm of the gradients and Adam.
        launch_s: Host time to launch a micro-batch's kernels; hidden if the GPU takes longer.
        compression: Whether gradients travel as bf16.
        bucket_mb: DDP's bucket size [MiB].
        algorithm: Of the all-reduce, see `all_reduce_s`.
        overlap: Whether the exchange runs beside the backward pass; not where both need the CPU.
        loaders: Reading processes per GPU; with 0 training waits for every read.
        read_s: Reading and decoding a crop in one process.
        storage_bandwidth: Of the shared storage, for all nodes together [byte/s].
        checkpoint_s: Copy to host memory that training waits for.
        validation_examples: Over all GPUs.
        pause_steps: Steps between checkpoints, and between validations.
    """

    example_s: float
    micro_batch: int = 8
    accumulation: int = 1
    weight_norm_s: float = 0.0
    optimizer_s: float = 0.0
    launch_s: float = 0.0
    compression: bool = False
    bucket_mb: float = 25.0
    algorithm: str = "auto"
    overlap: bool = True
    loaders: int = 4
    read_s: float = 0.0
    storage_bandwidth: float = math.inf
    checkpoint_s: float = 0.0
    validation_examples: int = 64
    pause_steps: int = 5000

    @property
    def share(self) -> int:
        """Examples per GPU and step."""
        return self.micro_batch * self.accumulation

    @property
    def pass_s(self) -> float:
        """Forward and backward pass of a micro-batch, without the launches' excess."""
        return self.micro_batch * self.example_s + self.weight_norm_s

    @property
    def launch_excess_s(self) -> float:
        """How much longer launching a micro-batch's kernels takes than running them."""
        return max(0.0, self.launch_s - self.pass_s)


class Step(NamedTuple):
    """Where the time of a step goes [s]; what the backward pass hides is not in it."""

    num_gpus: int
    global_batch: int
    compute: float  # forward and backward pass of the examples
    weights: float  # weight normalisation, optimizer
    launches: float  # kernels launched later than the GPU could take them
    gradient_bandwidth: float  # exposed exchange of gradients, by cause
    gradient_latency: float
    statistics: float
    data: float  # waiting for micrographs
    pauses: float  # checkpoints and validation, spread over the steps between

    @property
    def parts(self) -> dict[str, float]:
        """Times by cause."""
        return dict(zip(self._fields[2:], self[2:], strict=True))

    @property
    def total(self) -> float:
        """Time of the step."""
        return float(sum(self[2:]))

    @property
    def gradients(self) -> float:
        """Exposed exchange of gradients."""
        return self.gradient_bandwidth + self.gradient_latency

    @property
    def examples_per_s(self) -> float:
        """Over all GPUs."""
        return self.global_batch / self.total

    @property
    def limit(self) -> str:
        """Largest part of the step."""
        return max(self.parts, key=self.parts.__getitem__).replace("_", " ")


def all_reduce_s(num_bytes: float, num_gpus: int, cluster: Cluster, algorithm: str) -> float:
    """Time of an all-reduce that has its links to itself, on n GPUs in N nodes of g.

    ring          2 (n-1)/n bytes / bandwidth + 2 (n-N) intra-node + 2 (N-1) inter-node latencies
    tree          2 bytes / (0.9 bandwidth) + 2 (g-1) intra-node + 2 log2(N) inter-node latencies
    hierarchical  reduce-scatter in each node, ring or tree among nodes, all-gather in each node
    auto          the faster of ring and tree, between which NCCL chooses

    The bandwidth is that of the slowest link on the way.
    """
    if num_gpus == 1:
        return 0.0
    if algorithm == "auto":
        return min(all_reduce_s(num_bytes, num_gpus, cluster, name) for name in ("ring", "tree"))
    intra, inter = cluster.intra, cluster.inter
    per_node = min(num_gpus, cluster.gpus_per_node)
    nodes = math.ceil(num_gpus / per_node)
    if algorithm == "hierarchical" and nodes > 1:
        # All GPUs of a node send their parts at once, so the nodes exchange the whole at full rate.
        among = Cluster(inter, inter, gpus_per_node=1)
        return all_reduce_s(num_bytes, per_node, cluster, "ring") + all_reduce_s(
            num_bytes, nodes, among, "auto"
        )
    bandwidth = intra.bandwidth if nodes == 1 else min(intra.bandwidth, inter.bandwidth)
    if algorithm == "tree":
        hops = math.ceil(math.log2(nodes))
        latency = 2 * ((per_node - 1) * intra.latency + hops * inter.latency)
        return 2 * num_bytes / (TREE_FRACTION * bandwidth) + latency
    latency = 2 * (num_gpus - nodes) * intra.latency + 2 * (nodes - 1) * inter.latency
    return 2 * (num_gpus - 1) / num_gpus * num_bytes / bandwidth + latency


@lru_cache
def buckets(bucket_mb: float) -> tuple[tuple[int, float], ...]:
    """DDP's buckets of gradients: float32 bytes, and the part of the backward pass that fills it.

    Gradients come from the last layer to the first, as do the sizes here; a tensor with which a
    bucket reaches its size is its last.
    """
    total, done, filled, full = sum(layer.num_macs for layer in LAYERS), 0, 0, []
    for layer in reversed(LAYERS):
        done += layer.num_macs
        for num_values in (layer.out_channels, layer.num_parameters - layer.out_channels):
            filled += 4 * num_values
            if filled >= bucket_mb * 2**20:
                full.append((filled, done / total))
                filled = 0
    return (*full, (filled, 1.0)) if filled else tuple(full)


def exposed_exchange_s(
    training: Training,
    cluster: Cluster,
    num_gpus: int,
    *,
    statistics: bool = True,
    latency_only: bool = False,
) -> float:
    """What is left of the exchange when the backward pass of the last micro-batch is over."""

    def one_s(num_bytes: float) -> float:
        num_bytes = 0.0 if latency_only else num_bytes
        return all_reduce_s(num_bytes, num_gpus, cluster, training.algorithm)

    backward_s = (training.pass_s + training.launch_excess_s) * 2 / 3 if training.overlap else 0.0
    # Statistics are sent before the backward pass begins, then each bucket as soon as it is full
    # and the one before it is through.
    now = one_s(STATISTICS_BYTES) if statistics else 0.0
    for num_bytes, ready in buckets(training.bucket_mb):
        sent_bytes = num_bytes / 2 if training.compression else num_bytes
        now = max(now, ready * backward_s) + one_s(sent_bytes)
    return max(0.0, now - backward_s)


def step_time(training: Training, cluster: Cluster, num_gpus: int) -> Step:
    """Time of a step, part by part."""
    exchange_s = exposed_exchange_s(training, cluster, num_gpus)
    gradients_s = exposed_exchange_s(training, cluster, num_gpus, statistics=False)
    latency_s = exposed_exchange_s(training, cluster, num_gpus, statistics=False, latency_only=True)
    latency_s = min(latency_s, gradients_s)
    compute_s = training.share * training.example_s
    weights_s = training.accumulation * training.weight_norm_s + training.optimizer_s
    launch_s = training.accumulation * training.launch_excess_s
    busy_s = compute_s + weights_s + launch_s + exchange_s

    read_s = max(
        training.share * training.read_s / max(1, training.loaders),
        training.share * num_gpus * CROP_BYTES / training.storage_bandwidth,
    )
    data_s = max(0.0, read_s - busy_s) if training.loaders else read_s
    # Validation completes one example at a time.
    forward_s = max(training.example_s + training.weight_norm_s, training.launch_s) / 3
    validation_s = math.ceil(training.validation_examples / num_gpus) * forward_s
    return Step(
        num_gpus,
        training.share * num_gpus,
        compute_s,
        weights_s,
        launch_s,
        gradients_s - latency_s,
        latency_s,
        exchange_s - gradients_s,
        data_s,
        (training.checkpoint_s + validation_s) / training.pause_steps,
    )
