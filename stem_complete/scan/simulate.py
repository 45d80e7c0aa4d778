"""Complete micrographs -> partial scans and the truth to compare completions with."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from stem_complete.scan import random
from stem_complete.scan.acquire import NoiseModel, PartialScan, acquire, blur, flip_rotate
from stem_complete.scan.augment import change_contrast, magnify
from stem_complete.scan.path import ScanPath

# What the numbers drawn from an example's key are for.
_AUGMENTATION, _NOISE, _MAGNIFICATION, _CONTRAST = 0, 1, 2, 3


class SimulatedBatch(NamedTuple):
    """Simulated scans of a batch of micrographs.

    Attributes:
        scan: The partial scans.
        truth: Blurred micrographs `[b, 1, h, w]` in [-1, 1]; the losses compare with them.
        unblurred: The same micrographs before the blur.
        keys: `[b]`; `random.fold` makes further random numbers of these examples from them.
    """

    scan: PartialScan
    truth: Tensor
    unblurred: Tensor
    keys: Tensor


class ScanSimulator(nn.Module):
    """Scans micrographs along one path; it has no state but the path's dwell map.

    An example's flip, rotation and noise depend on seed, step and position alone, so that it
    gives the same scan in any batch on any worker.

    Args:
        path: Of the probe; its shape is the micrographs'.
        noise: How the detector sees a micrograph.
        augment: Apply one of the 8 flips and rotations, at random.
        blur_sigma_px: Of the truth's 5x5 Gaussian blur.
        seed: Of the run.
        max_zoom: Enlarge random parts of the micrographs up to so many times; 1 does not.
        contrast: Change the micrographs' tone curves at random, see `augment.change_contrast`.
        sample: Which image the probe measures: the paper's text has the blurred truth, the
            published code the original.

    Raises:
        ValueError: The arguments do not fit together.
    """

    dwell: Tensor
    pixels: Tensor  # in which it is not 0

    def __init__(
        self,
        path: ScanPath,
        noise: NoiseModel,
        augment: bool,
        blur_sigma_px: float,
        seed: int,
        sample: Literal["blurred", "original"] = "blurred",
        *,
        max_zoom: float = 1.0,
        contrast: bool = False,
    ) -> None:
        super().__init__()
        if augment and path.shape[0] != path.shape[1]:
            raise ValueError(f"augment needs square images, got {path.shape}")
        if max_zoom < 1:
            raise ValueError(f"max_zoom must be at least 1, got {max_zoom}")
        if blur_sigma_px <= 0:
            raise ValueError(f"blur_sigma_px must be positive, got {blur_sigma_px}")
        if sample not in ("blurred", "original"):
            raise ValueError(f'sample must be "blurred" or "original", got {sample!r}')
        # The path is part of the config: a checkpoint need not repeat its map.
        dwell = path.dwell_map()
        self.register_buffer("dwell", dwell[None, None], persistent=False)
        self.register_buffer("pixels", dwell.flatten().nonzero()[:, 0], persistent=False)
        self.noise = noise
        self.augment = augment
        self.blur_sigma_px = blur_sigma_px
        self.seed = seed
        self.sample = sample
        self.max_zoom = max_zoom
        self.contrast = contrast

    def forward(self, images: Tensor, step: int | Tensor, positions: Tensor) -> SimulatedBatch:
        """Scans of `images` [b, 1, h, w] in [-1, 1].

        Args:
            images: Micrographs.
            step: Of the run; a 0-dimensional int64 tensor avoids recompilation.
            positions: Of the examples in the global batch `[b]` int64.
        """
        keys = random.example_keys(self.seed, step, positions, stream=0)

        # The scan and the truth see the same image.
        if self.augment:
            images = flip_rotate(images, random.integers(random.fold(keys, _AUGMENTATION), 8))
        if self.max_zoom > 1:
            images = magnify(images, random.fold(keys, _MAGNIFICATION), self.max_zoom)
        if self.contrast:
            images = change_contrast(images, random.fold(keys, _CONTRAST))
        truth = blur(images, self.blur_sigma_px)

        measured = truth if self.sample == "blurred" else images
        scan = acquire(measured, self.dwell, self.noise, random.fold(keys, _NOISE), self.pixels)
        return SimulatedBatch(scan, truth, images, keys)
