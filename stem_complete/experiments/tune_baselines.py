"""Chooses the parameters of the classical baselines on the bundled validation micrographs.

    python -m stem_complete.experiments.tune_baselines            # everything, an hour on one core
    python -m stem_complete.experiments.tune_baselines harmonic --noise reference

Scans are those of `stem-complete evaluate --protocol` at constant speed: the same coverages and
noise, but of other micrographs. What is made small is the geometric mean over the coverages of the
mean RMSE against the blurred truth, so that each coverage counts the same. From the parameters in
`stem_complete/evaluation/baselines.py`, one parameter at a time goes a step up or down its grid,
for as long as that helps. The last column has, for each coverage by itself, the best of all that
was tried: the price of one set of parameters for all coverages.

The parameters there now, RMSE [%] at 1/10, 1/20 and 1/87 on 8 crops of 6 fields of view (torch
2.13, scipy 1.17):

    baseline                without noise         with reference noise
    normalised_convolution  1.89 / 4.31 / 8.44    6.02 / 7.54 / 9.94
    harmonic                1.82 / 3.82 / 7.62    6.23 / 7.42 / 9.54
    spline                  1.39 / 3.48 / 7.48    5.95 / 7.39 / 9.56
    total_variation         1.84 / 3.83 / 7.61    6.23 / 7.42 / 9.58

These are where the descent ends. Parameters for one coverage alone would gain up to 4 % (normalised
convolution without noise at 1/50), mostly under 1 %. Total variation does best with gradients
squared up to a tenth of the range per px, which is nearly everywhere: what is left of it is the
membrane.
"""

from __future__ import annotations

import argparse
import inspect
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean

from stem_complete.console import errors_in_one_line, say
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.splits import CROP_OF_ONE_FIELD
from stem_complete.evaluation import (
    BASELINES,
    NOISY,
    PROTOCOL,
    Baseline,
    Micrographs,
    evaluate,
    load_micrographs,
    markdown_table,
)

NOISES = ("none", "reference")
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "normalised_convolution": {
        "sigma_pitches": (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5),
        "dwell_exponent": (0, 1, 2, 4, 6, 8, 12, 16),
    },
    "harmonic": {
        "fidelity": (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, math.inf),
        "dwell_exponent": (0, 1, 2, 4, 6, 8, 12, 16),
    },
    "spline": {
        "fidelity": (0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
        "dwell_exponent": (0, 1, 2, 4, 6, 8, 12, 16),
        "stiffness": (1, 2, 4, 8, 15, 30, 60, 120),
    },
    "total_variation": {
        "fidelity": (0.3, 1, 2, 5, 10, 20, 50),
        "dwell_exponent": (0, 1, 2, 4, 6, 8, 12, 16),
        "huber": (0, 0.02, 0.05, 0.1, 0.2, 0.5),
    },
}

Setting = tuple[float, ...]
"""Values of a baseline's parameters, in the order of its grid."""


def tuned_row(name: str, noise: str, micrographs: Micrographs) -> list[str]:
    """Parameters and errors of a baseline under one noise, as a row of the table."""
    conditions = [c for c in PROTOCOL if (c.geometry, c.noise.kind) == ("archimedean", noise)]
    errors: dict[Setting, list[float]] = {}  # of each condition, in %

    def cost(setting: Setting) -> float:
        if setting not in errors:
            method = Baseline(name, dict(zip(GRIDS[name], setting, strict=True)))
            report = evaluate(micrographs, {name: method}, conditions)
            errors[setting] = [100 * cell.methods[name].rmse.mean for cell in report.cells()]
            say(f"{name}: {_named(name, setting)}: {geometric_mean(errors[setting]):.3f} %")
        return geometric_mean(errors[setting])

    setting = _today(name, noise)
    while (best := min([setting, *_neighbours(name, setting)], key=cost)) != setting:
        setting = best
    each = [min(column) for column in zip(*errors.values(), strict=True)]
    listed = (" / ".join(f"{error:.2f}" for error in found) for found in (errors[setting], each))
    return [name, noise, _named(name, setting), *listed]


def _named(name: str, setting: Setting) -> str:
    return ", ".join(f"{key} {v:g}" for key, v in zip(GRIDS[name], setting, strict=True))


def _neighbours(name: str, setting: Setting) -> Iterator[Setting]:
    """Settings a step up or down the grid of one parameter."""
    for place, grid in enumerate(GRIDS[name].values()):
        here = grid.index(setting[place])
        for value in grid[max(here - 1, 0) : here] + grid[here + 1 : here + 2]:
            yield (*setting[:place], value, *setting[place + 1 :])


def _today(name: str, noise: str) -> Setting:
    """The parameters that the baseline has in the package."""
    signature = inspect.signature(BASELINES[name]).parameters
    values = {key: signature[key].default for key in GRIDS[name]}
    return tuple((values | (NOISY[name] if noise != "none" else {})).values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"among {', '.join(GRIDS)}; by default all")
    parser.add_argument("--noise", choices=NOISES, help="by default both")
    parser.add_argument("--store", type=Path, help="of the bundled micrographs; made if not given")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder) / "store.zarr"
        if not store.exists():
            ingest(example_micrographs(), store, group_pattern=CROP_OF_ONE_FIELD)
        micrographs = load_micrographs(store, split="validation")
        rows = [
            tuned_row(name, noise, micrographs)
            for noise in ([options.noise] if options.noise else NOISES)
            for name in options.names or GRIDS
        ]
    coverages = " / ".join(dict.fromkeys(c.labels[1] for c in PROTOCOL))
    header = ["baseline", "noise", "parameters", f"RMSE [%] at {coverages}", "best of each"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    with errors_in_one_line():
        main()
