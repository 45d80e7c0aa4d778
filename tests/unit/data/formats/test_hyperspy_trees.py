"""HyperSpy's signals are read alike from HDF5 and zarr, under whatever suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import read_file, read_micrograph, read_micrographs
from stem_complete.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 48)).astype(np.uint16)
SUFFIXES = [".hspy", ".hdf5", ".h5", ".zspy", ".zarr"]
Axis = tuple[str, str, bool]  # name, unit, scanned

REAL: list[Axis] = [("y", "nm", False), ("x", "nm", False)]
SCANNED: list[Axis] = [("y", "nm", True), ("x", "nm", True)]


def write(path: Path, signals: dict[str, tuple[NDArray[Any], list[Axis], str]]) -> None:
    """Signals with their axes, 0.05 a step, and their type."""
    is_zarr = path.suffix in (".zspy", ".zarr")
    root: Any = zarr.create_group(path) if is_zarr else h5py.File(path, "w")
    root.attrs.update({"file_format": "ZSpy" if is_zarr else "HyperSpy"})
    for title, (data, axes, kind) in signals.items():
        group = root.create_group(f"Experiments/{title}")
        if is_zarr:
            group.create_array("data", data=data)
        else:
            group["data"] = data
        for number, (name, unit, scanned) in enumerate(axes):
            described = {"name": name, "scale": 0.05, "units": unit, "navigate": scanned}
            group.create_group(f"axis-{number}").attrs.update(described)
        group.create_group("metadata/General").attrs.update({"title": title})
        group.create_group("metadata/Signal").attrs.update({"signal_type": kind})
    if not is_zarr:
        root.close()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_and_stacks(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    stack = np.stack([IMAGE, IMAGE[::-1]])
    write(
        path,
        {"HAADF": (IMAGE, REAL, ""), "series": (stack, [("time", "s", True), *REAL], "")},
    )
    micrographs = read_micrographs(path)
    assert [(m.name, m.frame) for m in micrographs] == [("HAADF", 0), ("series", 0), ("series", 1)]
    assert {m.pixel_size_nm for m in micrographs} == {0.05}
    np.testing.assert_array_equal(read_micrograph(path, "HAADF").pixels, IMAGE)


@pytest.mark.parametrize("suffix", [".hspy", ".zspy"])
@pytest.mark.parametrize(
    ("shape", "axes", "kind", "reason"),
    [
        ((20, 24, 30), [*SCANNED, ("E", "eV", False)], "EELS", "EELS spectra"),
        ((20, 24, 30), [*SCANNED, ("E", "keV", False)], "EDS_TEM", "EDS_TEM spectra"),
        ((20, 24, 30), [*SCANNED, ("E", "", False)], "", "a spectrum or plot"),
        ((40, 48), [("ky", "1 / nm", False), ("kx", "1 / nm", False)], "", "diffraction"),
        ((40, 48), [("ky", "$A^{-1}$", False), ("kx", "$A^{-1}$", False)], "", "diffraction"),
        ((40, 48), [("", "", False), ("", "", False)], "electron_diffraction", "diffraction"),
        ((40, 48), [("", "", False), ("", "", False)], "diffraction", "diffraction"),
        ((9, 40, 48), [("x", "nm", True), *REAL], "EBSD", "diffraction"),
        ((9, 40, 48), [("x", "nm", True), *REAL], "", "patterns along a line"),
        ((40, 48), REAL, "ECPMasterPattern", "diffraction"),
        ((40, 48), REAL, "PolarSignal2D", "diffraction"),
        ((40, 48), REAL, "CBED", "diffraction"),
        ((3, 4, 40, 48), [*SCANNED, *REAL], "", "4-D data"),
    ],
)
def test_what_is_no_micrograph(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], axes: list[Axis], kind: str, reason: str
) -> None:
    write(tmp_path / f"a{suffix}", {"map": (np.ones(shape), axes, kind)})
    with pytest.raises(DataError, match=f"map: {reason}"):
        read_file(tmp_path / f"a{suffix}")


def test_signals_without_data_do_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.hspy", {"image": (IMAGE, REAL, "")})
    with h5py.File(tmp_path / "a.hspy", "a") as file:
        signals = file["Experiments"]
        signals["array"] = IMAGE
        signals["group/data/group"] = IMAGE
        signals["null/data"] = h5py.Empty("f4")
        signals.create_dataset("unwritten/data", (40, 48), "f4")
    contents = read_file(tmp_path / "a.hspy")
    assert [m.name for m in contents.micrographs] == ["image"]
    names = ("array", "group", "null", "unwritten")
    assert contents.skipped == [f"{name}: a signal without data" for name in names]


def test_a_map_over_the_positions_of_the_probe_is_an_image(tmp_path: Path) -> None:
    write(tmp_path / "a.hspy", {"sum": (IMAGE, SCANNED, "")})
    image = read_micrograph(tmp_path / "a.hspy")
    np.testing.assert_array_equal(image.pixels, IMAGE)
    assert image.pixel_size_nm == 0.05


def test_a_virtual_image_is_none_of_the_patterns_it_was_made_of(tmp_path: Path) -> None:
    write(tmp_path / "a.hspy", {"bf": (IMAGE, REAL, "virtual_dark_field")})
    assert read_micrograph(tmp_path / "a.hspy").pixel_size_nm == 0.05


def test_files_of_old_versions(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, kind in (("HAADF", "None"), ("map", "EELS")):
            group = file.create_group(f"Experiments/{name}")
            group["data"] = IMAGE
            group.create_group("mapped_parameters").attrs.update({"signal_type": kind})
            for number in (0, 1):
                described = {"scale": 0.05, "units": "nm", "navigate": False}
                group.create_group(f"axis-{number}").attrs.update(described)
    contents = read_file(tmp_path / "a.hdf5")
    assert [(m.name, m.pixel_size_nm) for m in contents.micrographs] == [("HAADF", 0.05)]
    assert contents.skipped == ["map: EELS spectra, shape (40, 48)"]
