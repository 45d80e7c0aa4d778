"""Micrograph stores as zarr-python reads them by itself: what benchmarks hold ours against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr

from stem_complete.data.layout import open_group


def open_images(path: Path) -> zarr.Array[Any]:
    """Stored crops [n, h, w] of the store at `path`, decoded by zarr-python and not by zarrs.

    Raises:
        StoreError: There is no store at `path`.
    """
    # The pipeline of an array is fixed when it is opened.
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        images = open_group(path)[0]["images"]
    assert isinstance(images, zarr.Array)
    return images
