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
from stem_complete.inspection import inspect_path
from stem_complete.summaries import everything, screen


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
    assert "num_crops: 28" in everything(values)


def test_the_screen_of_a_store(path: Path) -> None:
    lines = screen(inspect_path(path)).splitlines()
    assert len(lines) <= 24
    rows = {line[:11].strip(): line[13:] for line in lines}
    assert rows["crops"].startswith("28 of 16 x 16 px, uint16: ")
    assert rows["files"] == "4: 2 train, 1 validation, 1 test"
    assert rows["fields"] == "4: 2 train, 1 validation, 1 test"
    assert lines[4].strip() == "images/image0: 1 file, 9 crops, train"
    assert rows["pixel size"] == "0.02 nm, unknown of 27 crops"
    assert rows["left out"] == "2 smaller than a crop of 16"
    assert rows["next"].endswith(f"train compact data.store={path}")


def test_a_store_without_crops(tmp_path: Path) -> None:
    create_group(tmp_path / "s.zarr", 16, "uint16", "lz4")
    values = inspect_path(tmp_path / "s.zarr")
    assert values["num_crops"] == 0
    assert f"ingest IMAGES --store {tmp_path / 's.zarr'}" in screen(values)
