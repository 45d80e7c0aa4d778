"""Chooses the parameters of the classical baselines on validation micrographs.

    python -m stem_complete.experiments.tune_baselines --store released.zarr
    python -m stem_complete.experiments.tune_baselines --store released.zarr spline --keep

Makes `stem_complete/evaluation/tuned.yaml`: parameters by method, kind of path, noise and coverage,
for the noises and coverages of the protocol. The store is that of `experiments.release.store`, of
whose validation split one crop of each field of view is scanned. What is made small is the
geometric mean, over crops and two geometries of the kind, of the RMSE against the blurred truth.
From several starts, among them the best parameters of the class before, one parameter at a time
goes a step up or down its grid, for as long as that helps by two thousandths.

Dense scans are of the middle 256 px of the crops, as there they are alike in small, and for BM3D of
less. All takes an hour on one core; a class that was done is not done again with `--keep`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import yaml

from stem_complete.config import DetectorNoiseConfig, ReferenceNoiseConfig
from stem_complete.console import errors_in_one_line, say
from stem_complete.evaluation import (
    COVERAGES,
    NOISES,
    Baseline,
    Condition,
    KnownMicrograph,
    KnownScan,
    load_micrographs,
    rmse,
    simulate,
)
from stem_complete.evaluation.tuned import (
    DENOISERS,
    SPARSEST_DENOISED,
    TUNED,
    PathKind,
)
from stem_complete.files import write_atomically
from stem_complete.vocabulary import INTENSITY_RANGE, Geometry

Setting = tuple[float, ...]
"""Values of a method's parameters, in the order of its grid."""

REPRESENTATIVES: dict[PathKind, tuple[Geometry, ...]] = {
    "curves": ("archimedean", "hilbert"),
    "pixels": ("random", "line_hop"),
}
"""Geometries of each kind of path that parameters are tuned on."""

_EXPONENTS = (0, 1, 2, 4, 6, 8, 12)
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "normalised_convolution": {
        "sigma_pitches": (0.04, 0.06, 0.08, 0.11, 0.15, 0.2, 0.25, 0.3, 0.4, 0.55, 0.75, 1, 1.4, 2),
        "dwell_exponent": _EXPONENTS,
    },
    "spline": {
        "fidelity": (0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100),
        "dwell_exponent": _EXPONENTS,
        "stiffness": (0.3, 1, 4, 15, 40),
        "blurred": (False, True),
    },
    "harmonic": {
        "fidelity": (0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        "dwell_exponent": _EXPONENTS,
    },
    "total_variation": {
        "fidelity": (0.3, 1, 2, 5, 10, 20, 50),
        "dwell_exponent": _EXPONENTS,
        "huber": (0.02, 0.05, 0.1, 0.2, 0.5),
    },
    "non_local_means": {
        "filtering": (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7),
        "blurred": (False, True),
    },
    "bm3d": {
        "strength": (0.25, 0.4, 0.6, 0.8, 1, 1.3),
        "blurred": (False, True),
    },
}
STARTS: dict[str, tuple[Setting, ...]] = {
    "normalised_convolution": ((0.25, 1),),
    "spline": ((1, 1, 15, False), (10, 1, 1, True), (30, 0, 40, False), (0.5, 4, 1, True)),
    "harmonic": ((0.5, 1),),
    "total_variation": ((5, 1, 0.1),),
    "non_local_means": ((0.3, False), (0.15, True)),
    "bm3d": ((0.6, True),),
}
"""Where descents begin: parameters make up for one another, so that one may end in a dead end."""

HEADER = "# Written by stem_complete.experiments.tune_baselines."
MAX_IMAGES = 5
DENSE_PX, DENSE = 256, 1 / 30  # side of the part that is scanned, for coverages above
# Crops and side, for what takes long.
FEWER = {"bm3d": (2, 128), "harmonic": (3, 192), "total_variation": (3, 192)}
MIDDLE_ALONE = ("harmonic", "total_variation")  # not of the protocol: tuned to 1/20
WORTH = 2e-3  # relative gain for which a step is taken


def scans_of(
    name: str, crops: Sequence[KnownMicrograph], kind: PathKind, condition: Condition
) -> list[KnownScan]:
    """Scans that parameters of a method are tuned on."""
    num_crops, side_px = FEWER.get(name, (len(crops), DENSE_PX))
    if condition.coverage > DENSE:
        crops = [crop._replace(middle_px=side_px) for crop in crops[:num_crops]]
    return [
        scan
        for geometry in REPRESENTATIVES[kind]
        for scan in simulate(crops, condition._replace(geometry=geometry))
    ]


def tuned(
    name: str, scans: Sequence[KnownScan], starts: Sequence[Setting]
) -> tuple[Setting, float]:
    """The best parameters of a method that descents find, and their error [%]."""
    grid = GRIDS[name]
    found: dict[Setting, float] = {}

    def cost(setting: Setting) -> float:
        if setting not in found:
            method = Baseline(name, dict(zip(grid, setting, strict=True)))
            errors = [
                rmse(scan.truth, method(scan).image, intensity_range=INTENSITY_RANGE)
                for scan in scans
            ]
            found[setting] = sum(map(math.log, errors)) / len(errors)
        return found[setting]

    for start in starts:
        best, step = start, min(_neighbours(name, start), key=cost)
        while cost(step) < cost(best) - WORTH:
            best, step = step, min(_neighbours(name, step), key=cost)
    best = min(found, key=found.__getitem__)
    return best, 100 * math.exp(found[best])


def tune(store: Path, names: Sequence[str], only: str, output: Path, *, keep: bool) -> None:
    """Tunes methods for the classes whose labels fit the pattern, and writes what is found."""
    crops = load_micrographs(
        store, split="validation", max_images=MAX_IMAGES, max_per_field=1
    ).crops
    before: dict[str, Any] = (yaml.safe_load(output.read_text()) if output.exists() else {}) or {}
    for name in names:
        starts = STARTS[name]
        for kind, condition in _classes(name):
            _, coverage, noise = condition.labels
            of_noise = before.setdefault(name, {}).setdefault(kind, {}).setdefault(noise, {})
            wanted = fnmatchcase(f"{kind} {coverage} {noise}", only)
            if not wanted or (keep and coverage in of_noise):
                continue
            best, error = tuned(name, scans_of(name, crops, kind, condition), starts)
            of_noise[coverage] = dict(zip(GRIDS[name], best, strict=True))
            starts = (*STARTS[name], best)
            shown = ", ".join(f"{key} {value:g}" for key, value in of_noise[coverage].items())
            say(f"{name}, {kind} {coverage}, {noise}: {error:.2f} %, {shown}")
            dumped = yaml.safe_dump(before, sort_keys=False, width=100, default_flow_style=None)
            write_atomically(output, f"{HEADER}\n{dumped}")


def _classes(name: str) -> Iterator[tuple[PathKind, Condition]]:
    """Kinds of scans that a method is tuned to."""
    for kind in get_args(PathKind):
        for noise in NOISES:
            if noise == ReferenceNoiseConfig() and kind == "pixels":
                continue
            for coverage in COVERAGES if name not in MIDDLE_ALONE else COVERAGES[3:4]:
                condition = Condition(REPRESENTATIVES[kind][0], coverage, noise)
                noisy = isinstance(noise, DetectorNoiseConfig) and noise.dose_electrons_per_px
                if name not in DENOISERS or (noisy and coverage > SPARSEST_DENOISED):
                    yield kind, condition


def _neighbours(name: str, setting: Setting) -> Iterator[Setting]:
    """Settings a step up or down the grid of one parameter."""
    for place, grid in enumerate(GRIDS[name].values()):
        here = grid.index(setting[place])
        for value in grid[max(here - 1, 0) : here] + grid[here + 1 : here + 2]:
            yield (*setting[:place], value, *setting[place + 1 :])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"among {', '.join(GRIDS)}; by default all")
    parser.add_argument("--store", type=Path, required=True, help="its validation split is used")
    parser.add_argument("--only", default="*", help="classes such as 'curves 1/20 dose 100'")
    parser.add_argument("--keep", action="store_true", help="classes that are in the output")
    parser.add_argument("--output", type=Path, default=TUNED)
    options = parser.parse_args(arguments)
    tune(
        options.store, options.names or list(GRIDS), options.only, options.output, keep=options.keep
    )


if __name__ == "__main__":
    with errors_in_one_line():
        main()
