"""Images -> partial scans: sample by sample along a path, or pixel by pixel as published.

Everything is batched and elementwise without a branch on data, so it compiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.detector import Detector, ScanHardware
from stem_complete.scan.noise import NoiseModel, values_at
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.raster import spread_batch

_AT_REST = ScanHardware()


def acquire(
    image: Tensor,
    positions: Tensor,
    dwell: Tensor,
    detector: Detector,
    keys: Tensor,
    hardware: ScanHardware = _AT_REST,
    *,
    least_dose: Tensor | None = None,
) -> PartialScan:
    """Partial scans of `image`, as an instrument makes them along a path.

    What `acquire_samples` measures is put on the grid at the samples' nominal positions, as
    `PathScan.raster` does: intensities are means weighted by what each sample's dwell adds to the
    dwell map.

    Args:
        image: Images `[b, 1, h, w]` in [-1, 1].
        positions: Nominal (x, y) of the samples in time order `[b, n, 2]` [px].
        dwell: Of each sample `[b, n]` [full pixel dwells]; 0 for samples that fill up a batch.
        detector: What the samples measure.
        keys: Keys of the examples `[b]`, from `example_keys`.
        hardware: How the probe moves.
        least_dose: See `Detector.measure`.

    Raises:
        ValueError: The shapes do not fit.
    """
    measured = acquire_samples(
        image, positions, dwell, detector, keys, hardware, least_dose=least_dose
    )
    recorded = hardware.recorded_dwell(dwell, keys)
    height, width = image.shape[-2:]
    total, weight = spread_batch(
        positions, torch.stack([recorded * measured, recorded], 1), (height, width)
    ).chunk(2, 1)
    # Rounding leaves a rest of what the probe's width did not reach.
    reached = weight > 0
    mean = torch.where(reached, total / torch.where(reached, weight, 1), torch.nan)
    return PartialScan(mean.to(image.dtype), weight.to(image.dtype))


def acquire_samples(
    image: Tensor,
    positions: Tensor,
    dwell: Tensor,
    detector: Detector,
    keys: Tensor,
    hardware: ScanHardware = _AT_REST,
    *,
    least_dose: Tensor | None = None,
) -> Tensor:
    """What each sample along a path measures `[b, n]`.

    The specimen's intensity at the true position of each sample is counted over its dwell.

    Args:
        image: As of `acquire`, and so are all others.
        positions: In time order.
        dwell: Of each sample; where it is 0, the result is arbitrary and finite.
        detector: What the samples measure.
        keys: Keys of the examples.
        hardware: How the probe moves.
        least_dose: See `Detector.measure`.

    Raises:
        ValueError: The shapes do not fit.
    """
    num = len(image)
    if image.ndim != 4 or image.shape[1] != 1 or keys.shape != (num,):
        raise ValueError(f"expected images [b, 1, h, w] and keys [b], got {list(image.shape)}")
    if positions.shape != (*dwell.shape, 2) or len(dwell) != num:
        raise ValueError(
            f"positions {list(positions.shape)} and dwell {list(dwell.shape)} do not fit "
            f"{num} images"
        )
    height, width = image.shape[-2:]
    true = hardware.true_positions(positions, dwell, (height, width), keys)
    # In units where pixel centres at the border are at -1 and 1; beyond them the border goes on.
    size = torch.tensor([width - 1, height - 1], device=image.device)
    grid = (2 * true / size - 1).to(image.dtype)[:, None]
    intensity = F.grid_sample(
        image, grid, mode="bilinear", padding_mode="border", align_corners=True
    )[:, 0, 0]
    return detector.measure(intensity, dwell, keys, least_dose)


def acquire_pixels(
    image: Tensor,
    dwell: Tensor,
    noise: NoiseModel,
    keys: Tensor,
    pixels: Tensor | None = None,
) -> PartialScan:
    """Partial scans of `image`, detected pixel by pixel along a dwell map, as published.

    Args:
        image: Images `[b, 1, h, w]` in [-1, 1].
        dwell: Dwell maps `[b, 1, h, w]`, or one for all `[1, 1, h, w]` [full pixel dwells].
        noise: How a pixel is measured.
        keys: Keys of the examples `[b]`, from `example_keys`.
        pixels: Flat indices `[b or 1, n]` int64 of all pixels whose dwell may exceed 0, so that no
            noise is drawn for the others. None takes all pixels; the result is the same.

    Raises:
        ValueError: The shapes do not fit.
    """
    one_each = dwell.ndim == 4 and dwell.shape[1:] == image.shape[1:] == (1, *image.shape[2:])
    if not one_each or len(dwell) not in (1, len(image)):
        raise ValueError(f"dwell {list(dwell.shape)} does not fit images {list(image.shape)}")
    if keys.shape != image.shape[:1]:
        raise ValueError(f"keys must be [{len(image)}], one per image, got {list(keys.shape)}")
    if pixels is None:
        pixels = torch.arange(image[0].numel(), device=image.device)[None]
    visited = values_at(pixels, dwell)
    # The factor is 1 where measured and NaN elsewhere, which is faster than a mask on CPUs.
    measured = noise.measure(image, visited, keys, pixels) * (visited / visited)
    intensity = torch.full_like(image, torch.nan)
    intensity.flatten(1).scatter_(1, pixels.expand_as(measured), measured)
    return PartialScan(intensity, dwell.expand_as(image))
