"""When sparse scanning pays: full rasters and sparse scans of as many electrons, side by side.

A full raster spreads a budget of electrons over all pixels, and is denoised. A sparse scan gives
part of the pixels more of them, and is completed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from stem_complete.config import DetectorNoiseConfig
from stem_complete.data.examples import Split
from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.conditions import Condition
from stem_complete.evaluation.denoisers import bm3d, non_local_means
from stem_complete.evaluation.equal_dose_tables import BLURRED, equal_dose_figure, equal_dose_tables
from stem_complete.evaluation.known_scans import KnownScan, position_of
from stem_complete.evaluation.methods import Baseline, Method, Model
from stem_complete.evaluation.micrographs import Data, load_micrographs
from stem_complete.evaluation.page import save_png
from stem_complete.evaluation.protocol import MAX_PER_FIELD
from stem_complete.evaluation.report import MODEL, Report
from stem_complete.evaluation.tables import as_csv
from stem_complete.evaluation.tuned import dose_of
from stem_complete.evaluation.unit_scale import Image
from stem_complete.evaluation.work import SEED, TIMEOUT_S, ShowProgress, Workers, evaluate
from stem_complete.files import write_atomically
from stem_complete.inference import Completer, Completion
from stem_complete.scan import Detector, blur, example_keys
from stem_complete.scan.random import Stream
from stem_complete.vocabulary import INTENSITY_RANGE, Geometry

BUDGETS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Electrons for each pixel of an image, at intensity 1."""

RASTER: Geometry = "serpentine_raster"
SPARSE: tuple[Geometry, ...] = ("archimedean", "random", "line_hop")
SPARSE_COVERAGES = (1 / 2, 1 / 5, 1 / 10, 1 / 20)


def conditions_at(budget: float) -> list[Condition]:
    """A full raster and sparse scans of `budget` electrons for each pixel of an image."""

    def condition(geometry: Geometry, coverage: float) -> Condition:
        dose = budget / coverage
        return Condition(geometry, coverage, DetectorNoiseConfig(dose_electrons_per_px=dose))

    return [
        condition(RASTER, 1.0),
        *(condition(geometry, coverage) for geometry in SPARSE for coverage in SPARSE_COVERAGES),
    ]


@dataclass(frozen=True)
class Frame:
    """A full raster pixel by pixel, as denoisers take it, and what one makes of it.

    Attributes:
        name: `raw`, or a denoiser.
    """

    name: str
    _last: list[tuple[KnownScan, Image]] = field(default_factory=list, repr=False, compare=False)

    def suits(self, geometry: str, coverage: str, noise: str) -> bool:
        """Whether it is for such scans: full rasters."""
        return geometry == RASTER and coverage == "1/1" and dose_of(noise) is not None

    def __call__(self, scan: KnownScan) -> Completion:
        """What is made of the raster of `scan`, whose electrons are counted again."""
        # Denoising takes long, and what is blurred wants the same image.
        if not self._last or self._last[0][0] is not scan:
            dose = dose_of(scan.noise)
            assert dose is not None
            image = _FRAMES[self.name](_counted(scan, dose), dose_electrons_per_px=dose)
            self._last[:] = [(scan, image)]
        return Completion(self._last[0][1])


@dataclass(frozen=True)
class BlurredFrame:
    """What a denoiser makes of a raster, blurred as the truth that it is compared with."""

    frame: Frame

    def suits(self, geometry: str, coverage: str, noise: str) -> bool:
        """Whether it is for such scans."""
        return self.frame.suits(geometry, coverage, noise)

    def __call__(self, scan: KnownScan) -> Completion:
        """The blurred image."""
        image = torch.from_numpy(self.frame(scan).image)[None, None]
        return Completion(blur(image)[0, 0].numpy())


def _counted(scan: KnownScan, dose: float) -> RasterScan:
    """Electrons counted in each pixel of the micrograph, without the width of a path's probe."""
    pixels = torch.from_numpy(scan.unblurred).flatten()[None]
    keys = example_keys(SEED, 0, torch.tensor([position_of(scan.image)]), Stream.NOISE)
    counted = Detector(dose).measure(pixels, torch.ones_like(pixels), keys)
    return RasterScan(
        counted.view(scan.unblurred.shape).numpy(),
        np.ones_like(scan.unblurred),
        intensity_range=INTENSITY_RANGE,
    )


def _raw(frame: RasterScan, *, dose_electrons_per_px: float) -> Image:  # noqa: ARG001
    return frame.intensity.astype(np.float32)


_FRAMES: dict[str, Callable[..., Image]] = {
    "raw": _raw,
    "non_local_means": partial(non_local_means, filtering=0.4, noise_std=1.0),
    "bm3d": bm3d,
}
"""Non-local means have the parameters that are best on validation micrographs."""


def equal_dose_methods(completer: Completer | None) -> dict[str, Method]:
    """Denoisers of rasters that are installed, and what completes sparse scans."""
    methods: dict[str, Method] = {}
    for name in _FRAMES:
        if name != "bm3d" or find_spec("bm3d"):
            methods[name] = frame = Frame(name)
            methods[name + BLURRED] = BlurredFrame(frame)
    methods["adaptive_spline"] = Baseline("adaptive_spline")
    return methods | ({MODEL: Model(completer)} if completer else {})


def compare_at_equal_dose(
    data: Data,
    completer: Completer | None = None,
    *,
    budgets: Sequence[float] = BUDGETS,
    split: Split = "test",
    max_images: int | None = None,
    group_pattern: str | None = None,
    output: Path | None = None,
    workers: Workers | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: ShowProgress | None = None,
) -> Report:
    """Errors of full rasters, raw and denoised, and of sparse scans that are completed.

    Rasters are denoised by the model too, which then gets them as any scan along a path. BM3D is
    among the denoisers if it is installed. Without a model, sparse scans are completed by the
    adaptive spline alone.

    Args:
        data: A micrograph store, or files and folders of complete micrographs.
        completer: The model; files that it was trained on are left out.
        budgets: Electrons for each pixel of an image, at intensity 1.
        split: Split of the store; files are taken whole.
        max_images: Largest number of crops, spread evenly over the data.
        group_pattern: What names a file's field of view, see `load_micrographs`.
        output: Folder for `equal_dose.json`, `equal_dose.md`, `equal_dose.csv` and
            `equal_dose.png`. What is there of the same weights and data is not done again.
        workers: See `evaluate`.
        timeout_s: Likewise.
        progress: Called after each scan.

    Raises:
        DataError: There are no usable micrographs.
    """
    micrographs = load_micrographs(
        data,
        split=split,
        max_images=max_images,
        max_per_field=MAX_PER_FIELD,
        group_pattern=group_pattern,
        trained_on={source.sha256 for source in completer.card.training_data} if completer else (),
    )
    conditions = [condition for budget in budgets for condition in conditions_at(budget)]
    report = evaluate(
        micrographs,
        equal_dose_methods(completer),
        conditions,
        folder=output,
        workers=workers,
        timeout_s=timeout_s,
        progress=progress,
    )
    if output is not None:
        write_atomically(output / "equal_dose.json", report.to_json() + "\n")
        write_atomically(output / "equal_dose.md", equal_dose_tables(report) + "\n")
        write_atomically(output / "equal_dose.csv", as_csv(report))
        save_png(equal_dose_figure(report), output / "equal_dose.png")
    return report
