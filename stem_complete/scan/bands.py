"""Functions of large images, band of rows by band, so that what they need beside is bounded.

They give every pixel what they give it in the whole image, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Of all images of a batch. Bands that fit a cache are quicker on CPUs; GPUs want larger ones.
_CPU_BAND_PX, _GPU_BAND_PX = 2**19, 2**24


def bands(images: Tensor, multiple: int = 1) -> Iterator[slice]:
    """Rows of the bands of images [b, c, h, w]: one band with all, unless they are large.

    Args:
        images: The images.
        multiple: Of which the first row of each band is one.
    """
    b, _, h, w = images.shape
    rows = h if _is_small(images) else max(_most_px(images) // (b * w) // multiple, 1) * multiple
    for start in range(0, h, rows):
        yield slice(start, min(start + rows, h))


def in_bands(
    function: Callable[..., Tensor], *images: Tensor, halo: int = 0, multiple: int = 1
) -> Tensor:
    """`function(*images)` [b, c, h', w'].

    Args:
        function: Of images [b, ., rows, w], to images of as many rows, or a multiple or fraction.
        images: Images [b, ., h, w] of the same h and w.
        halo: Rows above and below a band that the function looks at. It sees the borders of bands
            as borders of the image, but only this far.
        multiple: Of rows that the function looks at together.
    """
    if _is_small(images[0]):
        return function(*images)
    h = images[0].shape[-2]
    result: Tensor | None = None
    for band in bands(images[0], multiple):
        above, below = min(halo, band.start), min(halo, h - band.stop)
        part = function(*(each[..., band.start - above : band.stop + below, :] for each in images))
        num_rows = band.stop - band.start
        per_row = part.shape[-2] / (above + num_rows + below)
        first = round(above * per_row)
        last = part.shape[-2] - round(below * per_row)
        part = part[..., first:last, :]
        start = round(band.start * per_row)
        if result is None:
            result = part.new_empty((*part.shape[:-2], round(h * per_row), part.shape[-1]))
        result[..., start : start + part.shape[-2], :] = part
    assert result is not None
    return result


def sums_in_bands(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """Sums [b, c, 1, 1] over the pixels of `function(*images)` [b, c, h, w]."""
    if _is_small(images[0]):
        return function(*images).sum((2, 3), keepdim=True)
    parts = [
        function(*(each[..., band, :] for each in images)).sum((2, 3), keepdim=True)
        for band in bands(images[0])
    ]
    return torch.stack(parts).sum(0)


def _is_small(images: Tensor) -> bool:
    b, _, h, w = images.shape
    return b * h * w <= 2 * _most_px(images)


def _most_px(images: Tensor) -> int:
    return _GPU_BAND_PX if images.is_cuda else _CPU_BAND_PX
