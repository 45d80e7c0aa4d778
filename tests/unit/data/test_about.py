"""What files say of an image beside its pixels, up to the scan."""

from __future__ import annotations

import json
from pathlib import Path

import h5py  # noqa: F401  here, as its import starts a process
import numpy as np
import pytest
import tifffile

from stem_complete import PathScan
from stem_complete.data.about import About, plain
from stem_complete.data.formats.micrographs import read_micrograph, read_micrographs
from stem_complete.data.formats.scans import read_scan

DATA = Path(__file__).parents[2] / "data"


def test_instruments_say_title_and_date():
    assert read_micrograph(DATA / "spim4-2-df-ref.dm4").about.title == "spim4-df-ref"
    emd = read_micrographs(DATA / "thermo_diffraction/session.emd")
    assert emd[0].about.title == "HAADF"
    assert emd[0].about.metadata["General"]["date"] == "2023-11-14"


def test_imagej_says_label_unit_and_info(tmp_path):
    scan = np.random.default_rng(0).normal(size=(40, 48)).astype(np.float32)
    scan[::2] = np.nan
    told = {"Labels": ["gold"], "Info": "200 kV", "cf": 0, "vunit": "nA"}
    tifffile.imwrite(tmp_path / "scan.tif", scan, imagej=True, metadata=told)
    about = read_scan(tmp_path / "scan.tif").about
    assert about == About("gold", "nA", {"ImageJ": "200 kV"})


def test_a_path_keeps_its_unit_on_the_grid():
    rows, columns = np.divmod(np.arange(40 * 40), 40)
    scan = PathScan(
        np.column_stack([columns, rows]),
        np.full(1600, 0.5),
        rows + columns,
        (40, 40),
        unit="nA",
        metadata={"full_dwell_us": np.float32(2)},
    )
    assert scan.raster().about == About("", "nA", {"full_dwell_us": 2.0})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        ({"a": np.arange(2), 3: (b"\xb5m", None)}, {"a": [0, 1], "3": ["\ufffdm", None]}),
        ([float("nan"), True, Path("a")], [None, True, "a"]),
    ],
)
def test_plain_values_are_json(value, expected):
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)
