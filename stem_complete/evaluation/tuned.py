"""Parameters of classical methods, tuned to the kind of scan on validation micrographs.

`tuned.yaml` has them by method, kind of path, noise and coverage, as
`experiments.tune_baselines` writes it. A scan takes those of its own noise and coverage, or else of
the nearest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from stem_complete.vocabulary import parse_coverage

TUNED = Path(__file__).with_suffix(".yaml")

Parameters = dict[str, float]
Tuned = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Parameters]]]]
"""Parameters by method, kind of path, noise and coverage."""

PathKind = Literal["curves", "pixels"]
PIXEL_GEOMETRIES = (
    "serpentine_raster",
    "interleaved_raster",
    "sparse_rows",
    "line_hop",
    "jittered_grid",
    "random",
)
"""Geometries with samples at the centres of pixels. Those of others grade the dwell of pixels."""


def path_kind(geometry: str) -> PathKind:
    """What the best parameters depend on, of a path."""
    return "pixels" if geometry in PIXEL_GEOMETRIES else "curves"


DENOISERS = ("non_local_means", "bm3d")
"""Methods for scans that are dense and noisy alone."""

SPARSEST_DENOISED = 1 / 6


def parameters(name: str, geometry: str, coverage: str, noise: str) -> Parameters | None:
    """Parameters of a method for a kind of scan, as reports label it.

    None: the method was not tuned to it, as denoisers to scans without noise. For scans without
    noise by pixels, methods have theirs as defaults.

    Args:
        name: Of the method.
        geometry: Path of the probe.
        coverage: Mean dwell, such as "1/20".
        noise: Such as "dose 100".
    """
    wanted = parse_coverage(coverage)
    if name in DENOISERS and wanted < SPARSEST_DENOISED:
        return None
    by_noise = read_tuned().get(name, {}).get(path_kind(geometry), {})
    apart = {key: _doses_apart(key, noise) for key in by_noise}
    nearest = min(apart, key=apart.__getitem__, default=None)
    if nearest is None or apart[nearest] == math.inf:
        return None
    found = by_noise[nearest]
    return found[min(found, key=lambda key: abs(math.log(parse_coverage(key) / wanted)))]


def dose_of(noise: str) -> float | None:
    """Dose that a label of noise names [electrons per full pixel dwell], of a range its middle."""
    if not noise.startswith("dose "):
        return None
    numbers = [float(part) for part in noise.split(",")[0].removeprefix("dose ").split(" to ")]
    return math.sqrt(numbers[0] * numbers[-1])


@cache
def read_tuned() -> Tuned:
    """Content of `tuned.yaml`."""
    values: Tuned = yaml.safe_load(TUNED.read_text()) or {}
    return values


def _doses_apart(one: str, other: str) -> float:
    """Logarithm of the ratio of the doses, 0 for equal noise, and infinite for other noise."""
    doses = dose_of(one), dose_of(other)
    if one == other:
        return 0.0
    if doses[0] is None or doses[1] is None:
        return math.inf
    return abs(math.log(doses[0] / doses[1]))
