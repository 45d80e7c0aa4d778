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
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean

from stem_complete.console import errors_in_one_line, say
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest
from stem_complete.evaluation import (
    BASELINES,
    NOISY,
    PROTOCOL,
    Baseline,
    Condition,
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


class Tuning:
    """Errors of one baseline under some conditions, each setting tried once.

    Args:
        name: Of the baseline.
        micrographs: What is scanned.
        conditions: How it is scanned.
    """

    def __init__(
        self, name: str, micrographs: Micrographs, conditions: Sequence[Condition]
    ) -> None:
        self.name, self.micrographs, self.conditions = name, micrographs, conditions
        self.errors: dict[Setting, list[float]] = {}

    def cost(self, setting: Setting) -> float:
        """Geometric mean over conditions of the mean RMSE [%]."""
        if setting not in self.errors:
            parameters = dict(zip(GRIDS[self.name], setting, strict=True))
            method = {self.name: Baseline(self.name, parameters)}
            report = evaluate(self.micrographs, method, self.conditions)
            self.errors[setting] = [
                100 * cell.methods[self.name].rmse.mean for cell in report.cells()
            ]
            found = ", ".join(f"{name} {value:g}" for name, value in parameters.items())
            say(f"{self.name}: {found}: {geometric_mean(self.errors[setting]):.3f} %")
        return geometric_mean(self.errors[setting])

    def descend(self, setting: Setting) -> Setting:
        """The setting from which no step along one parameter's grid helps."""
        while True:
            best = min([setting, *self._neighbours(setting)], key=self.cost)
            if best == setting:
                return setting
            setting = best

    def _neighbours(self, setting: Setting) -> list[Setting]:
        found = []
        for place, grid in enumerate(GRIDS[self.name].values()):
            here = grid.index(setting[place])
            beside = grid[max(here - 1, 0) : here] + grid[here + 1 : here + 2]
            found += [(*setting[:place], value, *setting[place + 1 :]) for value in beside]
        return found


def tuned_row(name: str, noise: str, micrographs: Micrographs) -> list[str]:
    """Parameters and errors of a baseline under one noise, as a row of the table."""
    conditions = [c for c in PROTOCOL if (c.geometry, c.noise.kind) == ("archimedean", noise)]
    tuning = Tuning(name, micrographs, conditions)
    best = tuning.descend(_today(name, noise))
    each = [min(column) for column in zip(*tuning.errors.values(), strict=True)]
    return [
        name,
        noise,
        ", ".join(f"{key} {value:g}" for key, value in zip(GRIDS[name], best, strict=True)),
        " / ".join(f"{error:.2f}" for error in tuning.errors[best]),
        " / ".join(f"{error:.2f}" for error in each),
    ]


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
            ingest(example_micrographs(), store)
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
