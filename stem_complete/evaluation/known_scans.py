"""Scans of micrographs that are known in full, on which completions are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.bundled import published_triples
from stem_complete.data.formats.published import read_published_scan
from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.conditions import PUBLISHED_NOISE, Condition
from stem_complete.evaluation.micrographs import KnownMicrograph, PublishedPicture
from stem_complete.scan import RANDOM_GEOMETRIES, ScanSimulator, blur
from stem_complete.vocabulary import INTENSITY_RANGE, format_coverage


class KnownScan(NamedTuple):
    """A scan of a known micrograph; all images [h, w], in [-1, 1] by the range of `unblurred`.

    Attributes:
        image: Name of the crop.
        field: Its field of view.
        geometry: Path of the probe, as reports name it.
        coverage: Mean dwell, such as "1/20".
        noise: The noise, such as "dose 100".
        partial: What was measured.
        truth: The blurred crop.
        unblurred: The crop.
        pixel_size_nm: Side of a pixel [nm]; None if it is unknown.
    """

    image: str
    field: str
    geometry: str
    coverage: str
    noise: str
    partial: RasterScan
    truth: NDArray[np.float32]
    unblurred: NDArray[np.float32]
    pixel_size_nm: float | None = None


def simulate(
    crops: Sequence[KnownMicrograph], condition: Condition, seed: int = 0
) -> Iterator[KnownScan]:
    """A scan of each crop.

    The noise of a crop, and its path if the geometry is random, depend on the seed and the crop's
    name alone, not on the other crops.
    """
    for crop in crops:
        pixels = crop.pixels
        height, width = pixels.shape
        position = position_of(crop.name)
        if condition.geometry in RANDOM_GEOMETRIES:
            simulator = condition.simulator((height, width), seed, path_seed=seed + position)
        else:
            simulator = _simulator(condition, (height, width), seed, condition.path_sha256)
        image = torch.from_numpy(pixels)[None, None]
        batch = simulator(image, 0, torch.tensor([position]))
        intensity, dwell, truth, unblurred = (
            t[0, 0].numpy() for t in (*batch.scan, batch.truth, batch.unblurred)
        )
        scan = RasterScan(intensity, dwell, intensity_range=INTENSITY_RANGE)
        yield KnownScan(
            *(crop.name, crop.field, *condition.labels, scan, truth, unblurred),
            pixel_size_nm=crop.pixel_size_nm,
        )


def position_of(name: str) -> int:
    """The position by which the noise of a crop of this name is drawn."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def published_scans() -> Iterator[KnownScan]:
    """The authors' own noisy scans, which come with the package.

    The truth is blurred by 5x5 px, sigma 2.5 px, as in the papers' losses.
    """
    for triple in published_triples():
        scan = read_published_scan(triple.scan, triple.dwell)
        unblurred = PublishedPicture(str(triple.truth)).read()
        truth = blur(torch.from_numpy(unblurred)[None, None])[0, 0].numpy()
        name = triple.truth.stem
        labels = ("published", format_coverage(scan.coverage), PUBLISHED_NOISE)
        yield KnownScan(name, name, *labels, scan, truth, unblurred)


@lru_cache(2)
def _simulator(
    condition: Condition, shape: tuple[int, int], seed: int, path_sha256: str | None
) -> ScanSimulator:
    """That of a path which all crops share: to rasterise one takes long."""
    del path_sha256  # a file of positions may have changed since
    return condition.simulator(shape, seed)
