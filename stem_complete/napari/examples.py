"""Real scans that come with the package, as sample data."""

from __future__ import annotations

from functools import partial

import numpy as np

from stem_complete.data.bundled import published_triples
from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.data.formats.published import read_published_scan
from stem_complete.napari.layers import COMPLETION, LayerData, image_layer, place_of, scan_layers


def _spiral(number: int) -> list[LayerData]:
    """A spiral scan that the authors of partial-STEM published, and its truth, which is hidden."""
    triple = published_triples()[number - 1]
    scan = read_published_scan(triple.scan, triple.dwell)
    name = f"spiral {number}"
    truth = (2 * read_micrograph(triple.truth).pixels - 1).astype(np.float32)
    data, attributes, kind = image_layer(truth, f"{name} truth", COMPLETION, place_of(None), {})
    attributes |= {"visible": False, "metadata": {}}
    return [(data, attributes, kind), *scan_layers([scan], name, f"example {number}")]


spiral_1, spiral_2, spiral_3 = (partial(_spiral, number) for number in (1, 2, 3))
