"""Chooses the parameters of the classical baselines on the bundled validation micrographs.

    python scripts/tune_baselines.py                      # everything, half an hour on one core
    python scripts/tune_baselines.py harmonic --noise reference

Scans are those of `stem-complete evaluate --protocol`: the same coverages and noise, but of other
micrographs. What is made small is the geometric mean over the coverages of the mean RMSE against
the blurred truth, so that each coverage counts the same. From the parameters that stand in
`stem_complete/evaluation/baselines.py`, one parameter at a time goes a step up or down its grid,
for as long as that helps. The last column has, for each coverage by itself, the best of all that
was tried: it tells the price of one set of parameters for all coverages.

What stands there now, RMSE [%] at 1/10, 1/20 and 1/87 on 8 crops of 6 fields of view (torch 2.13,
scipy 1.17):

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
from pathlib import Path

import numpy as np

from stem_complete.config import NoiseConfig, NoNoiseConfig, ReferenceNoiseConfig
from stem_complete.console import say
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest
from stem_complete.evaluation import (
    BASELINES,
    NOISY,
    Condition,
    KnownScan,
    load_micrographs,
    markdown_table,
    rmse,
    simulate,
)
from stem_complete.vocabulary import INTENSITY_RANGE

COVERAGES = (1 / 10, 1 / 17.9, 1 / 20, 1 / 50, 1 / 87)  # and noises of the evaluation protocol
NOISES: dict[str, NoiseConfig] = {"none": NoNoiseConfig(), "reference": ReferenceNoiseConfig()}
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


class Tuning:
    """Errors of one baseline under one noise, each setting tried once."""

    def __init__(self, name: str, scans: dict[float, list[KnownScan]]) -> None:
        self.name, self.scans = name, scans
        self.errors: dict[tuple[float, ...], list[float]] = {}

    def cost(self, setting: tuple[float, ...]) -> float:
        """Geometric mean over coverages of the mean RMSE [%]."""
        if setting not in self.errors:
            parameters = dict(zip(GRIDS[self.name], setting, strict=True))
            self.errors[setting] = [
                100 * float(np.mean([self._rmse(scan, parameters) for scan in scans]))
                for scans in self.scans.values()
            ]
            found = ", ".join(f"{name} {value:g}" for name, value in parameters.items())
            say(f"{self.name}: {found}: {math.exp(np.mean(np.log(self.errors[setting]))):.3f} %")
        return math.exp(float(np.mean(np.log(self.errors[setting]))))

    def descend(self, setting: tuple[float, ...]) -> tuple[float, ...]:
        """The setting from which no step along one parameter's grid helps."""
        while True:
            best = min([setting, *self._neighbours(setting)], key=self.cost)
            if best == setting:
                return setting
            setting = best

    def _rmse(self, scan: KnownScan, parameters: dict[str, float]) -> float:
        image = BASELINES[self.name](scan.partial, **parameters)
        return rmse(scan.truth, image, intensity_range=INTENSITY_RANGE)

    def _neighbours(self, setting: tuple[float, ...]) -> list[tuple[float, ...]]:
        found = []
        for place, grid in enumerate(GRIDS[self.name].values()):
            here = grid.index(setting[place])
            beside = grid[max(here - 1, 0) : here] + grid[here + 1 : here + 2]
            found += [(*setting[:place], value, *setting[place + 1 :]) for value in beside]
        return found


def main() -> None:
    """Tunes what is asked for, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"among {', '.join(GRIDS)}; by default all")
    parser.add_argument("--noise", choices=list(NOISES), help="by default both")
    parser.add_argument("--store", type=Path, help="of the bundled micrographs; made if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = arguments.store or Path(folder) / "store.zarr"
        if not store.exists():
            ingest(example_micrographs(), store)
        crops = load_micrographs(store, split="validation").crops
        rows = []
        for noise in [arguments.noise] if arguments.noise else NOISES:
            scans = {
                coverage: list(simulate(crops, Condition("archimedean", coverage, NOISES[noise])))
                for coverage in COVERAGES
            }
            for name in arguments.names or GRIDS:
                tuning = Tuning(name, scans)
                signature = inspect.signature(BASELINES[name]).parameters
                start = {key: signature[key].default for key in GRIDS[name]}
                start |= NOISY[name] if noise != "none" else {}
                best = tuning.descend(tuple(start.values()))
                each = [min(column) for column in zip(*tuning.errors.values(), strict=True)]
                values = zip(GRIDS[name], best, strict=True)
                rows.append(
                    [
                        name,
                        noise,
                        ", ".join(f"{key} {value:g}" for key, value in values),
                        " / ".join(f"{error:.2f}" for error in tuning.errors[best]),
                        " / ".join(f"{error:.2f}" for error in each),
                    ]
                )
    coverages = " / ".join(f"1/{1 / coverage:.3g}" for coverage in COVERAGES)
    header = ["baseline", "noise", "parameters", f"RMSE [%] at {coverages}", "best of each"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
