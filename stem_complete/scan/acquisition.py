"""Image, dwell map and noise model -> partial scan.

Everything is batched and elementwise without a branch on data, so it compiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stem_complete.scan.noise import NoiseModel, values_at
from stem_complete.scan.partial_scan import PartialScan


def acquire(
    image: Tensor,
    dwell: Tensor,
    noise: NoiseModel,
    keys: Tensor,
    pixels: Tensor | None = None,
) -> PartialScan:
    """Partial scan of `image` along a dwell map.

    Args:
        image: Images `[b, 1, h, w]` in [-1, 1].
        dwell: Dwell maps `[b, 1, h, w]`, or one for all `[1, 1, h, w]` [full pixel dwells].
        noise: How the detector measures the image.
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
