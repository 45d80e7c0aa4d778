"""Words and numbers that configs, files and the mathematics share."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

TaskName = Literal["completion", "supersampling", "classification"]
"""What is trained, see `training.tasks`."""

Encoding = Literal["standard", "filled", "splines", "waves", "adaptive", "reference"]
"""Network inputs of a partial scan, see `scan.encode`."""

Geometry = Literal[
    "archimedean",
    "archimedean_angular",
    "fermat",
    "lissajous",
    "hilbert",
    "serpentine_raster",
    "interleaved_raster",
    "sparse_rows",
    "line_hop",
    "jittered_grid",
    "random",
    "random_walk",
    "drawn",
    "nominal",
]
"""Paths of the probe, see `scan.GEOMETRIES`."""

Norm = Literal["mean", "batch", "layer", "none"]
"""Of the convolutions of a network, see `models.Architecture`."""

MeanNormAtInference = Literal["running", "image"]
"""Channel means that a trained network subtracts, see `models.MeanNorm`."""

Sample = Literal["blurred", "original"]
"""Image that the probe measures: the blurred truth, or the micrograph itself."""

DwellUnit = Literal["full", "counts", "s", "ms", "us", "ns"]
"""Units of dwell times in files, see `data.scan_options`."""

CompletionFormat = Literal["tiff", "npy", "zarr", "ome-zarr", "hspy"]
"""Formats of completed images, see `serving.batch.destinations`."""

RELEASED = "released"
"""Name of the model that comes with the package."""

WEIGHTS_FILE = "model.safetensors"
"""A model folder's weights."""

INTENSITY_RANGE = (-1.0, 1.0)
"""Intensities of micrographs in stores, and of simulated scans."""


def parse_coverage(value: object) -> float:
    """Coverage as a float in (0, 1] from `0.05`, `"0.05"`, `"1/20"`, `"1/17.9"` or a `Fraction`.

    Raises:
        ValueError: It is none of these, or not in (0, 1].
    """
    try:
        # `Fraction` does not read the denominators that `format_coverage` writes, as in 1/17.9.
        parts = [Fraction(part.strip()) for part in str(value).split("/")]
        numerator, denominator = parts if len(parts) > 1 else (parts[0], Fraction(1))
        coverage = float(numerator / denominator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"coverage must be a number such as 0.05 or a fraction such as 1/20, got {value!r}"
        ) from None
    if not 0 < coverage <= 1:
        hint = f"; did you mean {coverage / 100:g}?" if 1 < coverage <= 100 else ""
        raise ValueError(f"coverage must be in (0, 1], got {value}{hint}")
    return coverage


def format_coverage(coverage: float) -> str:
    """Coverage as a fraction, for example `1/17.9`."""
    return f"1/{1 / coverage:.3g}"
