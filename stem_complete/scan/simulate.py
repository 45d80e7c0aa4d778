"""Complete micrographs -> partial scans and the truth to compare completions with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stem_complete.scan import random
from stem_complete.scan.acquisition import acquire, acquire_pixels
from stem_complete.scan.augment import Augmentation
from stem_complete.scan.curriculum import Curriculum, level_of
from stem_complete.scan.detector import Detector, ScanHardware
from stem_complete.scan.filters import REFERENCE_BLUR_SIGMA_PX, blur
from stem_complete.scan.noise import NoiseModel, NoNoise
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.path import ScanPath
from stem_complete.scan.random import Stream
from stem_complete.vocabulary import Sample


class SimulatedBatch(NamedTuple):
    """Simulated scans of a batch of micrographs.

    Attributes:
        scan: Partial scans.
        truth: Blurred micrographs `[b, 1, h, w]` in [-1, 1]; the losses compare with them.
        unblurred: The same micrographs before the blur.
    """

    scan: PartialScan
    truth: Tensor
    unblurred: Tensor


Detection = NoiseModel | Detector
"""Pixel by pixel, or electrons counted sample by sample along the path."""


class ScanSimulator(nn.Module):
    """Scans micrographs along given paths; its only state are these.

    Everything random about an example depends on seed, step and position alone, so that it gives
    the same scan in any batch on any worker.

    Args:
        paths: Paths of the probe over images of one shape; each example is scanned along one.
        detections: How micrographs are detected; each example by one of them.
        seed: Seed of the run.
        hardware: How the probe follows its path, where a `Detector` counts samples.
        augmentation: Variation of the micrographs before they are scanned; None scans them as they
            are.
        blur_sigma_px: Standard deviation of the truth's 5x5 Gaussian blur [px].
        sample: Image that the probe measures: the blurred truth, as in the paper's text, or the
            original, as in the published code.
        noisy_fraction: Fraction of the examples that are detected so; the others pixel by pixel,
            without noise.
        curriculum: Easier scans at first; None scans in the same way throughout.

    Raises:
        ValueError: The arguments do not fit together.
    """

    dwell: Tensor  # dwell map of each path [p, 1, h, w], if pixels are detected
    pixels: Tensor  # flat indices of the pixels with dwell, for each path [p, n]
    samples: Tensor  # x, y and dwell of the samples of all paths [n, 3], if samples are counted
    ends: Tensor  # number of samples up to the end of each path [p]
    # What a curriculum has for each of its levels, and for all that follows [levels + 1, ...].
    stand_ins: Tensor  # number of the path that stands in for each of the own ones [..., p]
    least_doses: Tensor  # [...]
    noisy_fractions: Tensor  # [...]

    def __init__(
        self,
        paths: ScanPath | Sequence[ScanPath],
        detections: Detection | Sequence[Detection],
        seed: int,
        *,
        hardware: ScanHardware | None = None,
        augmentation: Augmentation | None = None,
        blur_sigma_px: float = REFERENCE_BLUR_SIGMA_PX,
        sample: Sample = "blurred",
        noisy_fraction: float = 1.0,
        curriculum: Curriculum | None = None,
    ) -> None:
        super().__init__()
        paths = [paths] if isinstance(paths, ScanPath) else list(paths)
        self.num_own_paths = len(paths)
        self.curriculum = curriculum
        fractions = [noisy_fraction]
        if curriculum is not None:
            paths += curriculum.paths
            fractions = [*curriculum.noisy_fractions, noisy_fraction]
            tables = {
                "stand_ins": [*curriculum.stand_ins, range(self.num_own_paths)],
                "least_doses": [*curriculum.doses, 0.0],
                "noisy_fractions": fractions,
            }
            for name, table in tables.items():
                self.register_buffer(name, torch.tensor(table), persistent=False)
        self.any_clean = min(fractions) < 1
        shapes = {path.shape for path in paths}
        if len(shapes) != 1:
            raise ValueError(f"expected paths of one shape, got {sorted(shapes)}")
        (shape,) = shapes
        if augmentation is not None and shape[0] != shape[1]:
            raise ValueError(f"augmentation needs square images, got {shape}")
        if not 0 <= noisy_fraction <= 1:
            raise ValueError(f"noisy_fraction must be in [0, 1], got {noisy_fraction}")
        if blur_sigma_px <= 0:
            raise ValueError(f"blur_sigma_px must be positive, got {blur_sigma_px}")
        if sample not in get_args(Sample):
            raise ValueError(f'sample must be "blurred" or "original", got {sample!r}')
        self.detections: list[Detection] = (
            list(detections) if isinstance(detections, Sequence) else [detections]
        )
        self.hardware = hardware or ScanHardware()
        counted = any(isinstance(detection, Detector) for detection in self.detections)
        in_pixels = self.any_clean or any(
            not isinstance(detection, Detector) for detection in self.detections
        )
        # Paths are part of the config: a checkpoint need not repeat them.
        maps = [path.dwell_map() for path in paths] if in_pixels else []
        dwell = torch.stack(maps)[:, None] if maps else torch.empty(0)
        self.register_buffer("dwell", dwell, persistent=False)
        pixels = _measured_pixels(maps) if maps else torch.empty(0)
        self.register_buffer("pixels", pixels, persistent=False)
        listed = [
            torch.cat([path.positions.float(), path.dwell[:, None]], 1) for path in paths if counted
        ]
        samples = torch.cat(listed) if listed else torch.empty(0, 3)
        self.register_buffer("samples", samples, persistent=False)
        ends = torch.tensor([len(each) for each in listed]).cumsum(0)
        self.register_buffer("ends", ends, persistent=False)
        self.num_paths = len(paths)
        self.most_samples = max(map(len, listed), default=0)
        self.seed = seed
        self.augmentation = augmentation
        self.blur_sigma_px = blur_sigma_px
        self.sample = sample
        self.noisy_fraction = noisy_fraction

    def forward(self, images: Tensor, step: int | Tensor, positions: Tensor) -> SimulatedBatch:
        """Scans of `images` [b, 1, h, w] in [-1, 1].

        Args:
            images: Micrographs.
            step: Step of the run; a 0-dimensional int64 tensor avoids recompilation. Or that of
                each example `[b]`.
            positions: Positions of the examples in the global batch `[b]` int64.
        """
        keys = partial(random.example_keys, self.seed, step, positions)
        if self.augmentation is not None:
            images = self.augmentation(images, keys)
        truth = blur(images, self.blur_sigma_px)
        measured = truth if self.sample == "blurred" else images

        path = random.integers(keys(Stream.PATH), self.num_own_paths)
        choice = random.integers(keys(Stream.DETECTION), len(self.detections))
        noisy_fraction: float | Tensor = self.noisy_fraction
        least_dose = None
        if self.curriculum is not None:
            level = level_of(self.curriculum, step, images)
            path = self.stand_ins[level, path]
            if self.curriculum.doses:
                least_dose = self.least_doses[level]
            if self.curriculum.noisy_fractions:
                noisy_fraction = self.noisy_fractions[level]
        if self.any_clean:
            noisy = random.uniform(keys(Stream.IS_NOISY), (1,))[:, 0] < noisy_fraction
            choice = torch.where(noisy, choice, len(self.detections))
        scan = self._detect(measured, path, choice, keys(Stream.NOISE), least_dose)
        return SimulatedBatch(scan, truth, images)

    def _detect(
        self,
        images: Tensor,
        path: Tensor,
        choice: Tensor,
        keys: Tensor,
        least_dose: Tensor | None,
    ) -> PartialScan:
        """Each image detected as `choice` [b] says; without noise beyond the last detection."""
        scan = PartialScan(torch.empty_like(images), torch.empty_like(images))
        others = [NoNoise()] if self.any_clean else []
        for place, detection in enumerate([*self.detections, *others]):
            chosen = choice == place
            rows = torch.arange(len(images), device=images.device)
            if _may_look(images):  # so that no image is detected in vain
                rows = rows[chosen]
            if not len(rows):
                continue
            if isinstance(detection, Detector):
                least = None if least_dose is None else least_dose[rows, None]
                found = self._count(images[rows], path[rows], detection, keys[rows], least)
            else:
                found = self._detect_pixels(images[rows], path[rows], detection, keys[rows])
            for whole, part in zip(scan, found, strict=True):
                whole[rows] = torch.where(chosen[rows, None, None, None], part, whole[rows])
        return scan

    def _detect_pixels(
        self, images: Tensor, path: Tensor, noise: NoiseModel, keys: Tensor
    ) -> PartialScan:
        dwell, pixels = self.dwell, self.pixels
        if self.num_paths > 1:
            dwell, pixels = dwell[path], pixels[path]
        return acquire_pixels(images, dwell, noise, keys, pixels)

    def _count(
        self,
        images: Tensor,
        path: Tensor,
        detector: Detector,
        keys: Tensor,
        least_dose: Tensor | None,
    ) -> PartialScan:
        end = self.ends[path][:, None]
        start = torch.where(path > 0, self.ends[path - 1], 0)[:, None]
        most = int((end - start).max()) if _may_look(images) else self.most_samples
        place = start + torch.arange(most, device=images.device)
        samples = self.samples[place.minimum(end - 1)]
        dwell = torch.where(place < end, samples[..., 2], 0)
        positions = samples[..., :2]
        return acquire(
            images, positions, dwell, detector, keys, self.hardware, least_dose=least_dose
        )


def _may_look(images: Tensor) -> bool:
    """Whether work may depend on the data: not where the device would wait, nor in a graph."""
    return not images.is_cuda and not torch.compiler.is_compiling()


def _measured_pixels(maps: Sequence[Tensor]) -> Tensor:
    """Flat indices [p, n] of the pixels with dwell in each map; short rows repeat their first."""
    rows = [dwell.flatten().nonzero()[:, 0] for dwell in maps]
    padded = pad_sequence(rows, batch_first=True, padding_value=-1)
    return torch.where(padded < 0, padded[:, :1], padded)
