"""What benchmarks found, as a table and as JSON, with the machine that they ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stem_complete
from stem_complete.benchmarks.measure import Comparison

_PACKAGES = (
    "torch",
    "numpy",
    "zarr",
    "numcodecs",
    "zarrs",
    "tensorstore",
    "ray",
    "mlflow",
    "safetensors",
)


def as_markdown(comparisons: Iterable[Comparison]) -> str:
    """Medians with quartiles, one row each, and the machine below."""
    lines = [
        "| | measured | against | ratio | goal | |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for found in comparisons:
        verdict = {True: "met", False: "**missed**", None: ""}[found.met]
        cells = [
            f"{found.benchmark}: {found.what}" + (f" ({found.note})" if found.note else ""),
            f"{_spread(found.values)} {found.unit}" if found.values else "not measured",
            f"{found.against}: {_spread(found.reference)} {found.unit}" if found.reference else "",
            _spread(found.ratios),
            str(found.goal or ""),
            verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Median (quartiles) over rounds. {_machine_in_words()}"]
    return "\n".join(lines)


def as_json(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """All values of all rounds, as plain values."""
    rows = [
        found._asdict()
        | {"ratios": found.ratios, "met": found.met, "goal": str(found.goal or "") or None}
        for found in comparisons
    ]
    return {"machine": machine(), "comparisons": rows}


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_1_min": os.getloadavg()[0],
        "python": platform.python_version(),
        "stem-complete": stem_complete.__version__,
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _machine_in_words() -> str:
    facts = machine()
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    gpu = f", {facts['gpu']}" if facts["gpu"] else ", no GPU"
    return (
        f"{facts['cores']} cores of {facts['cpu']}{gpu}, {facts['memory_gib']} GiB; "
        f"Python {facts['python']}, {versions}."
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, median, high = (_number(value) for value in np.percentile(values, [25, 50, 75]))
    return median + (f" ({low} to {high})" if len(values) > 1 else "")


def _number(value: float) -> str:
    """Three digits, as people write them."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cpu_name() -> str:
    """As the operating system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
