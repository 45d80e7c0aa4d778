"""HDF5 of every origin: links, null data sets, calibrations, EMD of Berkeley and py4DSTEM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from damaged import write_damaged_hdf5
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import read_file, read_micrograph, read_micrographs
from stem_complete.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 48)).astype(np.uint16)
STACK = np.stack([IMAGE, IMAGE[::-1]])


def test_null_data_sets_text_and_masks_do_not_hide_images(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["empty"] = h5py.Empty("f4")
        file["image"] = IMAGE
        file["mask"] = IMAGE > 9
        file["text"] = np.array([[b"a", b"b"]])
    contents = read_file(tmp_path / "a.h5")
    assert [m.name for m in contents.micrographs] == ["image"]
    assert contents.skipped == [
        "empty: a null data set, without data",
        "mask: bool values, a mask without intensities",
        "text: |S1 values",
    ]


def test_each_data_set_is_read_once_and_dead_links_are_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["far"] = IMAGE + 1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["real/image"] = IMAGE
        file["again"] = file["real/image"]
        file["alias"] = h5py.SoftLink("/real/image")
        file["round"] = h5py.SoftLink("/")
        file["lost"] = h5py.SoftLink("/nowhere")
        file["gone"] = h5py.ExternalLink("missing.h5", "/x")
        file["outside"] = h5py.ExternalLink("other.h5", "/far")
    contents = read_file(tmp_path / "a.h5")
    assert [m.name for m in contents.micrographs] == ["again", "outside"]
    assert sorted(contents.skipped) == [
        "gone: a link to /x in missing.h5, which is not there",
        "lost: a link to /nowhere, which is not there",
    ]


def test_units_by_axis(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, unit in (("image", "nm"), ("pattern", "1/nm")):
            file[name] = IMAGE
            file[name].attrs.update({"pixel_size": [0.5, 0.5], "unit": [unit, unit]})
    contents = read_file(tmp_path / "a.h5")
    assert [(m.name, m.pixel_size_nm) for m in contents.micrographs] == [("image", 0.5)]
    assert contents.skipped == ["pattern: diffraction patterns, shape (40, 48), in 1/nm"]


def test_links_in_circles_are_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = IMAGE
        file["group/up"] = file["/"]
        file["one"], file["two"] = h5py.SoftLink("/two"), h5py.SoftLink("/one")
    contents = read_file(tmp_path / "a.h5")
    assert [m.name for m in contents.micrographs] == ["image"]
    assert contents.skipped == [
        "one: a link to /two, which is not there",
        "two: a link to /one, which is not there",
    ]


def test_what_was_declared_and_never_written_is_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("huge", (10**6, 10**6), "f8", chunks=(1000, 1000))
        file.create_dataset("small", (40, 48), "f8")
        file["image"] = IMAGE
    contents = read_file(tmp_path / "a.h5")
    assert [m.name for m in contents.micrographs] == ["image"]
    assert contents.skipped == [
        "huge: declared, but never written, shape (1000000, 1000000)",
        "small: declared, but never written, shape (40, 48)",
    ]


def test_an_image_that_does_not_fit_in_memory_is_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("stack", (10**6, 1000, 1000), "f4", chunks=(1, 1000, 1000))
        file["stack"][0, 0, 0] = 1
    with pytest.raises(DataError, match=r"fits in memory.*3,725 GiB twice over.*one frame"):
        read_file(tmp_path / "a.h5")
    assert read_file(tmp_path / "a.h5", frame=0).micrographs[0].pixels[0, 0] == 1


def test_images_in_the_fields_of_a_table_and_classes(tmp_path: Path) -> None:
    table = np.zeros(2, [("time", "f8"), ("image", "u2", IMAGE.shape)])
    table["image"] = STACK
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = table
        kind = h5py.enum_dtype({"atom": 0, "hole": 1}, "u1")
        file.create_dataset("classes", data=IMAGE > 9, dtype=kind)
    contents = read_file(tmp_path / "a.h5")
    assert [(m.name, m.frame) for m in contents.micrographs] == [
        ("frames image", 0),
        ("frames image", 1),
    ]
    np.testing.assert_array_equal(contents.micrographs[1].pixels, STACK[1])
    assert contents.skipped[0] == "classes: classes, each pixel one of a few names"


@pytest.mark.parametrize("by", ["scales", "nexus"])
def test_axes_by_vectors_beside_the_data(tmp_path: Path, by: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, unit in (("real", "nm"), ("pattern", "1/nm")):
            group = file.create_group(name)
            group["data"] = IMAGE
            for number, size in enumerate(IMAGE.shape):
                vector = group.create_dataset(f"axis{number}", data=np.arange(size) * 0.25)
                vector.attrs["units"] = unit
                if by == "scales":
                    vector.make_scale()
                    group["data"].dims[number].attach_scale(vector)
            if by == "nexus":
                group.attrs.update({"signal": "data", "axes": ["axis0", "axis1"]})
    contents = read_file(tmp_path / "a.h5")
    assert [(m.name, m.pixel_size_nm) for m in contents.micrographs] == [("real/data", 0.25)]
    assert contents.skipped == ["pattern/data: diffraction patterns, shape (40, 48), in 1/nm"]


def test_a_virtual_data_set_is_read_if_its_sources_are_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["image"] = IMAGE
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("source", "gone"):
            layout = h5py.VirtualLayout(IMAGE.shape, IMAGE.dtype)
            layout[:] = h5py.VirtualSource(f"{name}.h5", "image", IMAGE.shape)
            file.create_virtual_dataset(name, layout)
    contents = read_file(tmp_path / "a.h5")
    assert contents.skipped == ["gone: a virtual data set of gone.h5, not there"]
    np.testing.assert_array_equal([m.pixels for m in contents.micrographs], [IMAGE])


def test_a_damaged_data_set_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_damaged_hdf5(path, IMAGE)
    contents = read_file(path)
    assert [m.name for m in contents.micrographs] == ["good"]
    assert list(contents.damaged) == ["bad"]
    assert "check that the file is complete" in contents.damaged["bad"]
    with pytest.raises(DataError, match=r"expected a readable \.h5 file"):
        read_file(path, signal="bad")


@pytest.mark.parametrize("size", [[0.05, 0.05], [7.0, 0.05, 0.05], [0.05], 0.05])
def test_pixel_sizes_by_axis(tmp_path: Path, size: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = STACK
        file["image"].attrs.update({"pixel_size": size, "pixel_unit": np.array([b"nm"])})
    assert [m.pixel_size_nm for m in read_micrographs(tmp_path / "a.h5")] == [0.05, 0.05]


def test_a_pattern_by_the_unit_of_its_pixels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pattern"] = IMAGE
        file["pattern"].attrs.update({"pixel_size": 0.05, "units": "1/nm"})
    with pytest.raises(DataError, match="pattern: diffraction patterns"):
        read_file(tmp_path / "a.h5")


# --- Nion Swift -------------------------------------------------------------------------------


def write_swift(path: Path, data: NDArray[Any], units: list[str], **properties: Any) -> None:
    calibrations = [{"offset": 0, "scale": 0.05, "units": unit} for unit in units]
    with h5py.File(path, "w") as file:
        file["data"] = data
        text = json.dumps({"dimensional_calibrations": calibrations, **properties})
        file["data"].attrs["properties"] = text


def test_nion_swift(tmp_path: Path) -> None:
    write_swift(tmp_path / "a.h5", IMAGE, ["nm", "nm"], datum_dimension_count=2)
    assert read_micrograph(tmp_path / "a.h5").pixel_size_nm == 0.05
    write_swift(tmp_path / "b.h5", STACK, ["", "nm", "nm"], datum_dimension_count=2)
    assert [m.pixel_size_nm for m in read_micrographs(tmp_path / "b.h5")] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("shape", "units", "datum"),
    [
        ((40, 48, 30), ["nm", "nm", "eV"], 1),
        ((40, 48), ["rad", "rad"], 2),
        ((40, 48), ["nm", "eV"], 1),
    ],
)
def test_spectra_and_patterns_of_nion_swift(
    tmp_path: Path, shape: tuple[int, ...], units: list[str], datum: int
) -> None:
    write_swift(tmp_path / "a.h5", np.ones(shape), units, datum_dimension_count=datum)
    with pytest.raises(DataError, match=r"diffraction|spectrum"):
        read_file(tmp_path / "a.h5")


# --- EMD --------------------------------------------------------------------------------------


def write_emd(
    path: Path,
    groups: dict[str, tuple[NDArray[Any], list[tuple[str, str]]]],
    *,
    first: int = 1,
    classes: dict[str, str] | None = None,
) -> None:
    """Groups of data with the name and unit of each dimension, 0.05 apart."""
    with h5py.File(path, "w") as file:
        file.attrs["version_major"] = 1 - first
        for name, (data, dims) in groups.items():
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = "array" if first == 0 else 1
            if classes:
                group.attrs["python_class"] = classes[name]
            group["data"] = data
            for number, ((dim, unit), size) in enumerate(zip(dims, data.shape, strict=True), first):
                group[f"dim{number}"] = 0.05 * np.arange(2 if first == 0 else size)
                group[f"dim{number}"].attrs.update({"name": dim, "units": unit})


@pytest.mark.parametrize("suffix", [".emd", ".h5"])
@pytest.mark.parametrize(
    "names", ["nyx", "yxn", "xyn", "ynx", "xny"], ids=lambda names: " ".join(names)
)
def test_stacks_by_the_names_of_their_dimensions(tmp_path: Path, names: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    dims = [(name, "[]" if name == "n" else "[n_m]") for name in names]
    data = STACK.transpose(["nyx".index(name) for name in names])
    write_emd(path, {"HAADF": (data, dims)})
    micrographs = read_micrographs(path)
    np.testing.assert_array_equal([m.pixels for m in micrographs], STACK)
    assert {(m.name, m.pixel_size_nm) for m in micrographs} == {("HAADF", 0.05)}
    np.testing.assert_array_equal(read_micrograph(path, frame=1).pixels, STACK[1])


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((40, 48, 30), [("y", "[n_m]"), ("x", "[n_m]"), ("E", "[eV]")]),
        ((30, 40, 48), [("E", "[eV]"), ("y", "[n_m]"), ("x", "[n_m]")]),
        ((40, 48), [("qy", "[1/n_m]"), ("qx", "[1/n_m]")]),
        ((40, 48), [("y", "[n_m^-1]"), ("x", "[n_m^-1]")]),
        ((4, 4, 40, 48), [("y", "nm"), ("x", "nm"), ("ky", "mrad"), ("kx", "mrad")]),
    ],
)
def test_emd_that_is_no_micrograph(
    tmp_path: Path, shape: tuple[int, ...], dims: list[tuple[str, str]]
) -> None:
    write_emd(tmp_path / "a.emd", {"data": (np.ones(shape), dims)})
    with pytest.raises(DataError, match=r"diffraction|spectrum"):
        read_file(tmp_path / "a.emd")


PY4DSTEM = {
    "dark_field": ("VirtualImage", True),
    "slice": ("RealSlice", True),
    "plain": ("Array", True),
    "dp_max": ("DiffractionSlice", False),
    "dp_mean": ("VirtualDiffraction", False),
    "bvm": ("BraggVectorMap", False),
    "probe": ("Probe", False),
    "peaks": ("PointListArray", False),
    "bragg": ("BraggVectors", False),
    "strain": ("StrainMap", False),
    "cube": ("DataCube", False),
}


@pytest.mark.parametrize("suffix", [".emd", ".h5"])
@pytest.mark.parametrize("unit", ["nm", "pixels"])
def test_classes_of_py4dstem(tmp_path: Path, suffix: str, unit: str) -> None:
    """Patterns are patterns also where nobody calibrated them."""
    groups = {name: (IMAGE, [("dim0", unit), ("dim1", unit)]) for name in PY4DSTEM}
    classes = {name: kind for name, (kind, _) in PY4DSTEM.items()}
    write_emd(tmp_path / f"a{suffix}", groups, first=0, classes=classes)
    contents = read_file(tmp_path / f"a{suffix}")
    images = {name for name, (_, is_image) in PY4DSTEM.items() if is_image}
    assert {m.name for m in contents.micrographs} == images
    sizes = {m.pixel_size_nm for m in contents.micrographs}
    assert sizes == {0.05 if unit == "nm" else None}
    assert {line.split(":")[0] for line in contents.skipped} == set(PY4DSTEM) - images


def test_patterns_of_older_py4dstem_by_their_place_or_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for kind in ("diffractionslices", "realslices"):
            file[f"4DSTEM_experiment/data/{kind}/mean/data"] = IMAGE
    contents = read_file(tmp_path / "a.h5")
    assert [m.name for m in contents.micrographs] == ["4DSTEM_experiment/data/realslices/mean/data"]
    write_emd(tmp_path / "b.emd", {"mean": (IMAGE, [("Q_x", "pix"), ("Q_y", "pix")])})
    with pytest.raises(DataError, match="diffraction patterns by their axes"):
        read_file(tmp_path / "b.emd")


def test_slices_with_labels_are_signals(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.emd", "w") as file:
        group = file.create_group("root/virtual")
        group.attrs.update({"emd_group_type": "array", "python_class": "RealSlice"})
        group["data"] = np.moveaxis(STACK, 0, -1)
        for number in (0, 1):
            group[f"dim{number}"] = [0.0, 0.05]
            group[f"dim{number}"].attrs.update({"name": "R", "units": "nm"})
        group["dim2"] = np.array([b"bf", b"adf"])
    micrographs = read_micrographs(tmp_path / "a.emd")
    assert [m.name for m in micrographs] == ["virtual bf", "virtual adf"]
    np.testing.assert_array_equal([m.pixels for m in micrographs], STACK)
