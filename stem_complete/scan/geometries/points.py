"""Single pixels, each measured for one dwell, with the beam blanked between them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.geometries.coverage import (
    DEFAULT_COVERAGE,
    Coverage,
    band_edges,
    random_numbers,
    whole_number,
    with_coverage,
)
from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape
from stem_complete.vocabulary import parse_coverage

_NUM_ROUNDS = 4  # enough to make a permutation a random one (Luby and Rackoff 1988)


def random_pixels(
    shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE, seed: int = 0
) -> ScanPath:
    """Pixels chosen uniformly at random, none twice, visited row by row, back and forth.

    Source: Béché et al. 2016, Appl. Phys. Lett. 108, 093103, who blank the beam over the others.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map.
        seed: Chooses the pixels.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    count = whole_number(coverage * height * width, height * width)
    pixels = _distinct_numbers(count, height * width, seed).sort().values
    y, x = pixels // width, pixels % width
    # Odd rows from right to left; the choice is as random mirrored.
    x = torch.where(y % 2 == 1, width - 1 - x, x)
    return with_coverage(torch.stack([x, y], dim=1), shape, coverage)


def jittered_grid(
    shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE, seed: int = 0
) -> ScanPath:
    """A random pixel of each cell of a grid, visited row by row of cells, back and forth.

    The cells have about 1 / coverage pixels each, so no gap is larger than two of them.

    Source: the jittered grids of Ede and Beanland 2020, doi:10.1038/s41598-020-65261-0.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map.
        seed: Chooses the pixels.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    num_columns = whole_number(width * math.sqrt(coverage), width)
    num_rows = whole_number(coverage * height * width / num_columns, height)
    number = random_numbers(seed, 2, num_rows, num_columns)
    columns, rows = band_edges(num_columns, width), band_edges(num_rows, height)
    x = columns[:-1] + (number[0] * columns.diff()).long()
    y = rows[:-1, None] + (number[1] * rows.diff()[:, None]).long()
    pixels = torch.stack([x, y], dim=2)
    pixels[1::2] = pixels[1::2].flip(1)
    return with_coverage(pixels.flatten(0, 1), shape, coverage)


def _distinct_numbers(count: int, most: int, seed: int) -> Tensor:
    """Random numbers `[count]` int64 below `most`, none twice: the first of a permutation.

    A Feistel cipher permutes the numbers of an even number of bits; what falls beyond `most` is
    enciphered again (cycle walking; Black and Rogaway 2002). So a few
    pixels of a large image take no list of all.
    """
    half = max(1, math.ceil(math.log2(most) / 2))
    mask = 2**half - 1
    keys = random.fold_in(random.key(seed), torch.arange(_NUM_ROUNDS))

    def encipher(numbers: Tensor) -> Tensor:
        for key in keys:
            left, right = numbers >> half, numbers & mask
            numbers = (right << half) | (left ^ (random.fold_in(key, right) & mask))
        return numbers

    numbers = encipher(torch.arange(count))
    while (beyond := numbers >= most).any():
        numbers[beyond] = encipher(numbers[beyond])
    return numbers
