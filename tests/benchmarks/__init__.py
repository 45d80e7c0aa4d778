"""Benchmarks: each figure beside its limit or its best peer, measured in turn in the same run.

    python -m tests.benchmarks                          # all, on the CPU
    python -m tests.benchmarks train complete --gpu --rounds 5 --output found.json
    python -m tests.benchmarks ingest checkpoint --folder /data   # on that disk

A benchmark is a module here with a function `run`. Leave the machine alone meanwhile.
"""

from pathlib import Path
from typing import NamedTuple

import torch

BENCHMARKS = {
    "alrc": "ALRC beside the training step without it",
    "train": "training step of the paper's network beside plain convolutions, or a GPU's peak",
    "validation": "validation of small images, many at once beside one by one",
    "complete": "completion by the folded network beside the unfolded one",
    "threads": "threads of a completion beside one, at rest and on a busy machine",
    "sizes": "large scans: seams beside errors, memory and CPU time beside small scans",
    "stages": "reading, encoding, network and writing beside the whole batch",
    "curves": "curves of tracked runs beside MLflow's client",
    "batch": "batches of scans beside a plain loop, late beside early, two workers, starts",
    "service": "requests to the service at 1 to 64 clients beside the completer itself",
    "scan": "scan simulation beside a plain per-image version and a training step",
    "loader": "loading of training examples beside what training steps consume",
    "ingest": "ingest of micrographs beside a write of the same bytes",
    "checkpoint": "checkpoint of the paper's network beside a copy of the same bytes",
}
"""What each module measures."""


class Setting(NamedTuple):
    """How and where to measure.

    Attributes:
        folder: Takes what is written.
        device: Where networks run.
        rounds: Times that each case is measured.
        quick: Smallest inputs: they show that the benchmark works, and nothing else.
    """

    folder: Path
    device: torch.device = torch.device("cpu")
    rounds: int = 7
    quick: bool = False
