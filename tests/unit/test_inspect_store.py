"""The summary of a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.layout import create_group
from stem_complete.data.store.store import MicrographStore
from stem_complete.inspection import inspect_path, summary


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 4000, (48, 48)).astype(np.uint16)
        np.save(folder / f"image{number}.npy", image)
    image = np.random.default_rng(9).uniform(size=(20, 20)).astype(np.float32)
    options = {"imagej": True, "resolution": (50, 50), "metadata": {"unit": "nm"}}
    tifffile.imwrite(folder / "sized.tif", image, **options)
    np.save(folder / "small.npy", image[:8])
    np.save(folder / "small_too.npy", image[:9])
    ingest([folder], tmp_path / "s.zarr", crop_size=16)
    return tmp_path / "s.zarr"


def test_what_a_store_holds(path: Path) -> None:
    values = inspect_path(path)
    store = MicrographStore(path)
    assert (values["num_crops"], values["crop_size"], values["dtype"]) == (28, 16, "uint16")
    assert values["crops"] == store.counts
    assert values["files"] == {"train": 2, "validation": 1, "test": 1}
    groups = [(Path(g["group"]).name, g["split"], g["files"], g["crops"]) for g in values["groups"]]
    assert groups[0] == ("image0", "train", 1, 9)
    assert {name for name, *_ in groups} == {"image0", "image1", "image2", "sized"}
    assert values["pixel_size_nm"] == pytest.approx([0.02, 0.02])
    assert values["num_unknown_pixel_size"] == 27
    assert values["reasons"] == {"smaller than a crop of 16": 2}
    assert len(values["sources"]) == 6
    assert values["bytes_on_disk"] > 0
    assert values["sources"][0]["split"] == "train"
    assert values["left_out"][0]["reason"].startswith("smaller than a crop of 16, 8 x 20")
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert "num_crops: 28" in summary(values)


def test_a_store_without_crops(tmp_path: Path) -> None:
    create_group(tmp_path / "s.zarr", 16, "uint16", "lz4")
    assert inspect_path(tmp_path / "s.zarr")["num_crops"] == 0
