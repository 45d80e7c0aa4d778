"""Benchmarks: what each part costs beside its limit or its best peer, measured in the same run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from stem_complete.benchmarks.measure import Comparison, Effort
from stem_complete.benchmarks.report import as_json, as_markdown
from stem_complete.console import heading
from stem_complete.errors import ConfigError

__all__ = ["BENCHMARKS", "Comparison", "Effort", "as_json", "as_markdown", "run_benchmarks"]

BENCHMARKS = {
    "alrc": "ALRC beside the same training step without it",
    "train_cpu": "training step of the paper's network beside plain convolutions and Adam",
    "train_gpu": "training step of the paper's network beside the GPU's matrix products",
    "guard": "guard, curves and weight average beside a step without them",
    "choices": "the training step beside other ways to compute it: formats, compilers, recomputing",
    "complete": "folded network beside the unfolded one, in float32, bf16 and int8",
    "store_reading": "random crops of a store beside pread, zarr-python and other readers",
    "pipeline": "loading of training examples beside what training steps consume",
    "ingest": "ingest of micrographs beside writing the same bytes",
    "scan": "scan simulation beside a plain per-image version and a training step",
    "startup": "start of the command line and of the package beside importing torch",
    "checkpoint": "checkpoint of the paper's network beside a copy of the same bytes",
    "ray_train": "training under Ray Train beside the same under torchrun",
    "scaling": "weak scaling over gloo ranks, and the share of time in collectives",
    "tracking": "training tracked by MLflow beside the same without",
    "memory": "peak memory of the demo, training and completion; growth over 10,000 steps",
}
"""Name of each benchmark, which is the module here that has it, and what it measures."""


def run_benchmarks(
    names: Iterable[str], effort: Effort, folder: Path | None = None
) -> Iterator[Comparison]:
    """Runs benchmarks one after the other.

    Args:
        names: Of `BENCHMARKS`; none means all.
        effort: How long to measure.
        folder: For what is written, so on the disk that is to be measured; None takes a temporary
            one. Nothing is left there.

    Raises:
        ConfigError: There is no benchmark of that name.
    """
    chosen = list(names) or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            raise ConfigError(
                expected=f"names of benchmarks: {', '.join(BENCHMARKS)}",
                found=name,
                where="benchmark",
                fix="leave names out to run all",
            )
    for name in chosen:
        heading(f"{name}: {BENCHMARKS[name]}")
        with TemporaryDirectory(prefix="stem-complete-", dir=folder) as scratch:
            benchmark = import_module(f"{__name__}.{name}")
            for comparison in benchmark.run(effort, Path(scratch)):
                yield comparison._replace(benchmark=name)
