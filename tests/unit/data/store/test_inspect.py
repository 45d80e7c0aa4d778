"""The summary of a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.inspect import inspect_store
from stem_complete.data.store.layout import create_group
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import StoreError


@pytest.fixture
def path(tmp_path: Path, write_images: Callable[..., Path]) -> Path:
    folder = write_images(3)
    image = np.random.default_rng(9).uniform(size=(20, 20)).astype(np.float32)
    options = {"imagej": True, "resolution": (50, 50), "metadata": {"unit": "nm"}}
    tifffile.imwrite(folder / "sized.tif", image, **options)
    np.save(folder / "small.npy", image[:8])
    np.save(folder / "small_too.npy", image[:9])
    ingest([folder], tmp_path / "s.zarr", crop_size=16)
    return tmp_path / "s.zarr"


def test_summary(path: Path) -> None:
    summary = inspect_store(path)
    store = MicrographStore(path)
    assert (summary.num_crops, summary.crop_size, summary.dtype) == (28, 16, "uint16")
    assert summary.crops == store.counts
    assert summary.files == {"train": 2, "validation": 1, "test": 1}
    assert summary.pixel_size_nm == pytest.approx((0.02, 0.02))
    assert summary.num_unknown_pixel_size == 27
    assert summary.reasons == {"smaller than a crop of 16": 2}
    assert len(summary.sources) == 6
    assert summary.bytes_on_disk > 0
    values = json.loads(summary.to_json())
    assert values["num_crops"] == 28
    assert values["sources"][0]["split"] == "train"
    assert values["left_out"][0]["reason"].startswith("smaller than a crop of 16, 8 x 20")


def test_no_store_and_no_crops(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="stem-complete ingest"):
        inspect_store(tmp_path / "none.zarr")
    create_group(tmp_path / "s.zarr", 16, "uint16", "lz4")
    assert inspect_store(tmp_path / "s.zarr").num_crops == 0
