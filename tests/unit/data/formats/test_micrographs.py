"""Every kind of file is read with its shape and pixel size; every bad one gives one clear line."""

from __future__ import annotations

import json
import logging
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import (
    read_file,
    read_micrograph,
    read_micrographs,
)
from stem_complete.errors import DataError

DATA = Path(__file__).parents[3] / "data"
IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 48)).astype(np.uint16)
STACK = np.stack([IMAGE + k for k in range(3)])
COLOUR = np.stack([IMAGE, IMAGE // 2, IMAGE // 3], axis=-1)


def write_tiff(path: Path, **options: Any) -> None:
    tifffile.imwrite(path, STACK, photometric="minisblack", **options)


def write_png(path: Path, image: NDArray[Any]) -> None:
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(image))


def write_hdf5(path: Path, **datasets: NDArray[Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


def write_mrc(path: Path, stack: NDArray[np.uint16], pixel_angstrom: float) -> None:
    """MRC 2014 (https://www.ccpem.ac.uk/mrc_format/mrc2014.php), mode 6: uint16."""
    depth, height, width = stack.shape
    header = bytearray(1024)
    struct.pack_into("<10i", header, 0, width, height, depth, 6, 0, 0, 0, width, height, depth)
    lengths = (width * pixel_angstrom, height * pixel_angstrom, depth * pixel_angstrom)
    struct.pack_into("<6f", header, 40, *lengths, 90, 90, 90)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    header[208:216] = b"MAP \x44\x44\x00\x00"
    path.write_bytes(bytes(header) + stack.tobytes())


def write_berkeley_emd(path: Path, image: NDArray[Any], step_nm: float) -> None:
    """EMD 0.2 (https://emdatasets.com/format): groups of data with one vector per dimension."""
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("data/HAADF")
        group.attrs["emd_group_type"] = 1
        group["data"] = image
        for number, (name, size) in enumerate(zip("YX", image.shape, strict=True), start=1):
            group[f"dim{number}"] = step_nm * np.arange(size)
            group[f"dim{number}"].attrs["name"] = name
            group[f"dim{number}"].attrs["units"] = "[n_m]"


def axis(
    name: str, size: int, scale: float, units: str, *, scanned: bool = False
) -> dict[str, Any]:
    return {
        "_type": "UniformDataAxis",
        "name": name,
        "size": size,
        "scale": scale,
        "offset": 0.0,
        "units": units,
        "navigate": scanned,
    }


def write_hspy(path: Path, data: NDArray[Any], axes: list[dict[str, Any]], kind: str = "") -> None:
    from rsciio.hspy import file_writer

    metadata = {"General": {"title": "HAADF"}, "Signal": {"signal_type": kind}}
    signal = {
        "data": data,
        "axes": axes,
        "metadata": metadata,
        "original_metadata": {},
        "attributes": {"_lazy": False, "ragged": False},
        "learning_results": {},
        "package_info": {"name": "", "version": ""},
        "tmp_parameters": {},
        "models": {},
    }
    file_writer(str(path), signal)


# --- files that came from instruments ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num", "shape", "dtype", "pixel_size_nm", "signal"),
    [
        ("021_HAADF_15nm_Sample_PtNC_21Oct20.tif", 1, (512, 512), "uint32", 0.02930, ""),
        ("nanoparticles_01.h5", 1, (1024, 1024), "uint32", 0.3289, "data"),
        ("spim4-2-df-ref.dm4", 1, (512, 512), "float32", 0.05859, "spim4-df-ref"),
        ("haadf_tilt_series.dm3", 91, (64, 64), "uint16", 17.99, "HAADF_Rebin16"),
    ],
    ids=["imagej tiff", "hdf5", "dm4", "dm3 stack"],
)
def test_instrument_files(
    name: str, num: int, shape: tuple[int, int], dtype: str, pixel_size_nm: float, signal: str
) -> None:
    if name.endswith(("dm3", "dm4")):
        pytest.importorskip("rsciio")
    micrographs = read_micrographs(DATA / name)
    assert [m.frame for m in micrographs] == list(range(num))
    for micrograph in micrographs:
        assert (micrograph.pixels.shape, micrograph.pixels.dtype) == (shape, dtype)
        assert micrograph.pixel_size_nm == pytest.approx(pixel_size_nm, rel=1e-3)
        assert (micrograph.name, micrograph.path) == (signal, DATA / name)
        assert micrograph.pixels.std() > 0


# --- files written here -----------------------------------------------------------------------

TIFF_CASES: dict[str, tuple[dict[str, Any], float | None]] = {
    "plain": ({}, None),
    "deflate with predictor": ({"compression": "zlib", "predictor": True}, None),
    "tiles": ({"tile": (16, 16), "compression": "lzw"}, None),
    "big endian": ({"byteorder": ">"}, None),
    "imagej": ({"imagej": True, "resolution": (50, 50), "metadata": {"unit": "nm"}}, 0.02),
    "imagej micron": (
        {"imagej": True, "resolution": (50e3, 50e3), "metadata": {"unit": "micron"}},
        0.02,
    ),
    "imagej pixel": ({"imagej": True, "resolution": (1, 1), "metadata": {"unit": "pixel"}}, None),
    "ome": (
        {
            "ome": True,
            "metadata": {
                "PhysicalSizeX": 20,
                "PhysicalSizeXUnit": "pm",
                "PhysicalSizeY": 20,
                "PhysicalSizeYUnit": "pm",
            },
        },
        0.02,
    ),
    "centimetres": ({"resolution": (5e8, 5e8), "resolutionunit": "CENTIMETER"}, 0.02),
    "printer": ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
    "thermo fisher": (
        {"extratags": [(34682, 2, 0, "[Scan]\r\nPixelWidth=2e-11\r\nPixelHeight=2e-11\r\n", True)]},
        0.02,
    ),
    "oblong pixels": ({"resolution": (5e8, 4e8), "resolutionunit": "CENTIMETER"}, None),
}


@pytest.mark.parametrize(("options", "expected"), [*TIFF_CASES.values()], ids=[*TIFF_CASES])
def test_tiff_flavours_and_pixel_sizes(
    tmp_path: Path, options: dict[str, Any], expected: float | None
) -> None:
    path = tmp_path / ("a.ome.tif" if options.get("ome") else "a.tif")
    tifffile.imwrite(path, IMAGE, **options)
    micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.pixels, IMAGE)
    assert micrograph.pixels.dtype.isnative
    if expected is None:
        assert micrograph.pixel_size_nm is None
    else:
        assert micrograph.pixel_size_nm == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint32", ">i4", ">f8"])
@pytest.mark.parametrize("suffix", [".tif", ".npy", ".h5", ".zarr"])
def test_number_formats(tmp_path: Path, dtype: str, suffix: str) -> None:
    path, image = tmp_path / f"a{suffix}", (IMAGE // 500).astype(dtype)
    if suffix == ".tif":
        predictor = 3 if image.dtype.kind == "f" and image.dtype.itemsize > 2 else None
        byteorder = ">" if dtype.startswith(">") else None
        options = {"compression": "zlib", "predictor": predictor} if predictor else {}
        tifffile.imwrite(path, image, byteorder=byteorder, **options)
    elif suffix == ".npy":
        np.save(path, image)
    elif suffix == ".h5":
        write_hdf5(path, image=image)
    else:
        zarr.create_array(path, data=image, zarr_format=2)
    pixels = read_micrograph(path).pixels
    np.testing.assert_array_equal(pixels, image)
    assert pixels.dtype == image.dtype.newbyteorder("=")
    assert pixels.dtype.isnative


def test_png_of_grey_with_and_without_opacity(tmp_path: Path) -> None:
    write_png(tmp_path / "grey.png", IMAGE)
    write_png(tmp_path / "opaque.png", np.stack([IMAGE, np.full_like(IMAGE, 65_535)], axis=-1))
    for name in ("grey.png", "opaque.png"):
        np.testing.assert_array_equal(read_micrograph(tmp_path / name).pixels, IMAGE)


def test_a_png_of_one_bit_is_a_mask(tmp_path: Path) -> None:
    mask = IMAGE > 30_000
    height, width = mask.shape
    rows = np.packbits(mask, axis=1)
    filtered = np.pad(rows, ((0, 0), (1, 0))).tobytes()  # 0 before each row: no filter
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0),
        b"IDAT": zlib.compress(filtered),
        b"IEND": b"",
    }
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks.items()
        )
    )
    with pytest.raises(DataError, match="a mask without intensities"):
        read_micrograph(tmp_path / "a.png")
    [image] = read_file(tmp_path / "a.png", masks=True).micrographs
    np.testing.assert_array_equal(image.pixels, mask)


@pytest.mark.parametrize("num_colours", [1, 3])
def test_a_png_with_a_mask_in_its_opacity_is_refused_with_the_fix(
    tmp_path: Path, num_colours: int
) -> None:
    opacity = np.where(IMAGE > 30_000, 65_535, 0).astype(np.uint16)
    for name, grey in (("image", IMAGE), ("mask alone", np.zeros_like(IMAGE))):
        path = tmp_path / f"{name}.png"
        write_png(path, np.stack([grey] * num_colours + [opacity], axis=-1))
        with pytest.raises(DataError, match=r"transparent pixels; save .*\(alpha\) as greyscale"):
            read_micrograph(path)


@pytest.mark.parametrize("num", [2, 3, 4, 8])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".zarr"])
def test_detectors_along_the_last_axis_are_refused_with_the_fix(
    tmp_path: Path, suffix: str, num: int
) -> None:
    path, data = tmp_path / f"a{suffix}", np.stack([IMAGE + k for k in range(num)], axis=-1)
    {
        ".npy": lambda: np.save(path, data),
        ".npz": lambda: np.savez(path, scan=data),
        ".h5": lambda: write_hdf5(path, scan=data),
        ".zarr": lambda: zarr.create_array(path, data=data),
    }[suffix]()
    with pytest.raises(DataError, match=rf"{num} values a pixel.*detectors along the first axis"):
        read_micrographs(path)
    # The first axis is that of detectors or frames, however few.
    np.save(tmp_path / "b.npy", np.moveaxis(data, -1, 0))
    assert len(read_micrographs(tmp_path / "b.npy")) == num


def test_a_last_axis_of_one_is_no_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGE[..., None])
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.npy").pixels, IMAGE)


def test_fields_of_a_structured_array_are_signals(tmp_path: Path) -> None:
    data = np.zeros(IMAGE.shape, [("haadf", "<f4"), ("bf", "<u2"), ("mask", "?")])
    data["haadf"], data["bf"] = IMAGE, IMAGE // 2
    np.save(tmp_path / "a.npy", data)
    write_hdf5(tmp_path / "a.h5", scan=data)
    for name, prefix in (("a.npy", ""), ("a.h5", "scan ")):
        contents = read_file(tmp_path / name)
        assert [m.name for m in contents.micrographs] == [f"{prefix}haadf", f"{prefix}bf"]
        np.testing.assert_array_equal(contents.micrographs[1].pixels, IMAGE // 2)
        assert contents.skipped == [f"{prefix}mask: bool values, a mask without intensities"]


def test_objects_beside_arrays_do_not_hide_these(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=IMAGE, notes=np.array([{"by": "me"}], object))
    contents = read_file(tmp_path / "a.npz")
    assert [m.name for m in contents.micrographs] == ["image"]
    [line] = contents.skipped
    assert line.startswith("notes: an array of Python objects (a pickle), which is not read")


def test_a_file_of_many_other_things_says_how_many(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{f"plot{number}": np.arange(4.0) for number in range(9)})
    with pytest.raises(DataError, match=r"plot2: 1-D data \(4,\), and 6 more"):
        read_file(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_colours_are_read_only_if_they_are_grey(tmp_path: Path, suffix: str) -> None:
    write = {".tif": tifffile.imwrite, ".png": write_png}[suffix]
    grey, colour = tmp_path / f"grey{suffix}", tmp_path / f"colour{suffix}"
    write(grey, np.stack([IMAGE] * 3, axis=-1))
    write(colour, COLOUR)
    np.testing.assert_array_equal(read_micrograph(grey).pixels, IMAGE)
    with pytest.raises(DataError, match=r"colour\..*greyscale"):
        read_micrograph(colour)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_colours_in_planes(tmp_path: Path, planar: str) -> None:
    image = np.stack([IMAGE] * 3, axis=-1 if planar == "contig" else 0)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif").pixels, IMAGE)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".npz", ".h5", ".zarr", ".mrc"])
def test_stacks_are_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".mrc":
        pytest.importorskip("rsciio")
        write_mrc(path, STACK, pixel_angstrom=0.2)
    else:
        {
            ".tif": lambda: write_tiff(path, metadata=None),
            ".npy": lambda: np.save(path, STACK),
            ".npz": lambda: np.savez(path, movie=STACK),
            ".h5": lambda: write_hdf5(path, movie=STACK),
            ".zarr": lambda: zarr.create_array(path, data=STACK),
        }[suffix]()
    micrographs = read_micrographs(path)
    np.testing.assert_array_equal(np.stack([m.pixels for m in micrographs]), STACK)
    assert [m.frame for m in micrographs] == [0, 1, 2]
    only = read_micrograph(path, frame=2)
    np.testing.assert_array_equal(only.pixels, STACK[2])
    assert only.frame == 2
    with pytest.raises(DataError, match="a frame from 0 to 2, found frame 3"):
        read_micrographs(path, frame=3)
    with pytest.raises(DataError, match="one image, found 3"):
        read_micrograph(path)


def test_signals_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_hdf5(path, **{"bf": IMAGE, "scan/haadf": IMAGE + 1, "axis": np.arange(5.0)})
    contents = read_file(path)
    assert {m.name for m in contents.micrographs} == {"bf", "scan/haadf"}
    assert contents.skipped == []  # an axis is no news
    np.testing.assert_array_equal(read_micrograph(path, signal="scan/haadf").pixels, IMAGE + 1)
    with pytest.raises(DataError, match="'bf', 'scan/haadf', found 'adf' asked for"):
        read_micrographs(path, signal="adf")


def test_signals_of_one_name_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    channels: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": ["HAADF"] * 3}}
    tifffile.imwrite(path, STACK, ome=True, metadata=channels)
    assert [m.name for m in read_micrographs(path)] == ["HAADF", "HAADF 2", "HAADF 3"]


def test_what_is_no_image_is_skipped_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=IMAGE, spectrum=np.arange(9.0), cube=np.zeros((2, 3, 4, 5)), z=1j * IMAGE)
    contents = read_file(path)
    assert [m.name for m in contents.micrographs] == ["image"]
    assert contents.skipped == [
        "spectrum: 1-D data (9,)",
        "cube: 4-D data (2, 3, 4, 5)",
        "z: complex128 values; save their magnitude or phase",
    ]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"scale": 0.02, "scale_unit": "nm"}, 0.02),
        ({"pixel_size": 2e-11, "units": "m"}, 0.02),
        ({"element_size_um": [1.0, 2e-5, 2e-5]}, 0.02),
        ({"scale": 0.02}, None),
    ],
)
def test_hdf5_pixel_sizes(
    tmp_path: Path, attributes: dict[str, Any], expected: float | None
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = IMAGE
        file["image"].attrs.update(attributes)
    found = read_micrograph(tmp_path / "a.h5").pixel_size_nm
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_groups(tmp_path: Path, zarr_format: Any) -> None:
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    group.create_array("haadf/raw", data=IMAGE)
    group.create_array("axis", data=np.arange(4.0))
    contents = read_file(tmp_path / "a.zarr")
    assert [m.name for m in contents.micrographs] == ["haadf/raw"]
    np.testing.assert_array_equal(contents.micrographs[0].pixels, IMAGE)


def test_ome_zarr_is_read_at_full_size_with_its_pixel_size(tmp_path: Path) -> None:
    """OME-Zarr 0.5, https://ngff.openmicroscopy.org/0.5/."""
    scale = [{"type": "scale", "scale": [1, 1, 1, 20, 20]}]
    axes: list[dict[str, str]] = [{"name": name} for name in "tcz"]
    axes += [{"name": name, "type": "space", "unit": "picometer"} for name in "yx"]
    datasets = [{"path": path, "coordinateTransformations": scale} for path in ("0", "1")]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    group = zarr.create_group(tmp_path / "a.zarr", attributes={"ome": ome})
    group.create_array("0", data=IMAGE[None, None, None])
    group.create_array("1", data=IMAGE[None, None, None, ::2, ::2])
    micrograph = read_micrograph(tmp_path / "a.zarr")
    np.testing.assert_array_equal(micrograph.pixels, IMAGE)
    assert micrograph.pixel_size_nm == pytest.approx(0.02)


def test_berkeley_emd(tmp_path: Path) -> None:
    pytest.importorskip("rsciio")
    write_berkeley_emd(tmp_path / "a.emd", IMAGE, step_nm=0.02)
    micrograph = read_micrograph(tmp_path / "a.emd")
    np.testing.assert_array_equal(micrograph.pixels, IMAGE)
    assert micrograph.pixel_size_nm == pytest.approx(0.02)


def test_mrc_in_angstrom(tmp_path: Path) -> None:
    pytest.importorskip("rsciio")
    write_mrc(tmp_path / "a.mrc", STACK[:1], pixel_angstrom=0.2)
    micrograph = read_micrograph(tmp_path / "a.mrc")
    np.testing.assert_array_equal(micrograph.pixels, IMAGE)
    assert micrograph.pixel_size_nm == pytest.approx(0.02, rel=1e-5)


@pytest.mark.parametrize("place", [28, 40], ids=["pixels", "length"])  # of the cell, in the header
def test_an_mrc_whose_cell_is_not_filled_in_has_no_pixel_size(tmp_path: Path, place: int) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / "a.mrc"
    write_mrc(path, STACK[:1], pixel_angstrom=0.2)
    whole = bytearray(path.read_bytes())
    whole[place : place + 12] = bytes(12)
    path.write_bytes(whole)
    assert read_micrograph(path).pixel_size_nm is None


def test_hspy(tmp_path: Path) -> None:
    pytest.importorskip("rsciio")
    axes = [axis("y", 40, 2e-5, "µm"), axis("x", 48, 2e-5, "µm")]
    write_hspy(tmp_path / "a.hspy", IMAGE, axes)
    micrograph = read_micrograph(tmp_path / "a.hspy")
    np.testing.assert_array_equal(micrograph.pixels, IMAGE)
    assert micrograph.name == "HAADF"
    assert micrograph.pixel_size_nm == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("shape", "axes", "kind", "reason"),
    [
        ((9,), [("E", "eV", False)], "EELS", "EELS"),
        ((4, 5, 9), [("y", "nm", True), ("x", "nm", True), ("E", "keV", False)], "EDS_TEM", "EDS"),
        ((4, 5, 9), [("y", "nm", True), ("x", "nm", True), ("E", "keV", False)], "", "spectrum"),
        ((8, 9), [("ky", "1/nm", False), ("kx", "1/nm", False)], "", "diffraction"),
        (
            (2, 3, 8, 9),
            [("y", "nm", True), ("x", "nm", True), ("ky", "nm", False), ("kx", "nm", False)],
            "",
            "4-D data",
        ),
    ],
    ids=["spectrum", "eds map", "spectrum image", "diffraction", "4d-stem"],
)
def test_instrument_data_that_is_no_micrograph(
    tmp_path: Path,
    shape: tuple[int, ...],
    axes: list[tuple[str, str, bool]],
    kind: str,
    reason: str,
) -> None:
    pytest.importorskip("rsciio")
    described = [
        axis(name, size, 1.0, unit, scanned=scanned)
        for size, (name, unit, scanned) in zip(shape, axes, strict=True)
    ]
    write_hspy(tmp_path / "a.hspy", np.ones(shape), described, kind)
    with pytest.raises(DataError, match=f"HAADF.*{reason}"):
        read_file(tmp_path / "a.hspy")


def test_missing_extra_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "rsciio"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rsciio", None)
    with pytest.raises(DataError, match=r"pip install 'stem-complete\[microscopy\]'"):
        read_file(DATA / "spim4-2-df-ref.dm4")


# --- bad files --------------------------------------------------------------------------------


def with_value(value: float) -> NDArray[np.float32]:
    image = IMAGE.astype(np.float32)
    image[3, 4] = value
    return image


def not_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "no array")


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.tif", lambda path: None, "no such file"),
    "empty tiff": ("a.tif", lambda path: path.touch(), "an empty file"),
    "empty dm4": ("a.dm4", lambda path: path.touch(), "an empty file"),
    "unknown suffix": ("a.doc", lambda path: path.write_text("x"), r"a \.doc file"),
    "no suffix": ("scan", lambda path: path.write_text("x"), "a suffixless file"),
    "folder": ("folder", lambda path: path.mkdir(), "a folder"),
    "text as tiff": (
        "a.tif",
        lambda path: path.write_text("hello" * 99),
        "another start than such files have",
    ),
    "text as png": (
        "a.png",
        lambda path: path.write_text("hello" * 99),
        "another start than such files have",
    ),
    "text as npy": (
        "a.npy",
        lambda path: path.write_text("hello" * 99),
        "another start than such files have",
    ),
    "text as hdf5": ("a.h5", lambda path: path.write_text("hello" * 99), "expected a readable"),
    "text as npz": ("a.npz", lambda path: path.write_text("hello" * 99), "expected a readable"),
    "npz of text": ("a.npz", not_zip, r"a\.txt: no array"),
    "broken zarr": (
        "a.zarr",
        lambda path: (path.mkdir(), (path / "zarr.json").write_text("{")),
        "readable",
    ),
    "empty zarr": ("a.zarr", zarr.create_group, "no data"),
    "empty hdf5": ("a.h5", lambda path: write_hdf5(path), "no data"),
    "pickle": (
        "a.npy",
        lambda path: np.save(path, np.array([{}]), allow_pickle=True),
        r"\(a pickle\).*; save numbers",
    ),
    "complex": ("a.npy", lambda path: np.save(path, 1j * IMAGE), "complex128 values"),
    "truth values": ("a.npy", lambda path: np.save(path, IMAGE > 9), "bool values"),
    "text values": ("a.npy", lambda path: np.save(path, np.array([["a"]])), "<U1 values"),
    "one dimension": ("a.npy", lambda path: np.save(path, IMAGE[0]), r"1-D data \(48,\)"),
    "four dimensions": ("a.npy", lambda path: np.save(path, IMAGE.reshape(2, 2, 10, 48)), "4-D"),
    "no pixels": ("a.npy", lambda path: np.save(path, IMAGE[:0]), "no pixels"),
    "vectors": ("a.h5", lambda path: write_hdf5(path, a=np.arange(9.0)), "1-D data"),
    "nan": (
        "a.npy",
        lambda path: np.save(path, with_value(np.nan)),
        "1 of 1,920 pixels NaN or Inf",
    ),
    "inf": (
        "a.npy",
        lambda path: np.save(path, with_value(np.inf)),
        "1 of 1,920 pixels NaN or Inf",
    ),
    "constant": ("a.npy", lambda path: np.save(path, np.full((9, 9), 7)), "the value 7 in every"),
}


@pytest.mark.parametrize(("name", "write", "found"), [*BAD.values()], ids=[*BAD])
def test_bad_files_give_one_line_that_names_them(
    tmp_path: Path, name: str, write: Callable[[Path], object], found: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=found) as caught:
        read_micrograph(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert "expected" in line


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "tiff": ("a.tif", write_tiff),
    "tiff, tags first": ("a.tif", lambda path: write_tiff(path, metadata=None)),
    "deflated tiff": ("a.tif", lambda path: write_tiff(path, compression="zlib")),
    "tiled tiff": ("a.tif", lambda path: write_tiff(path, tile=(16, 16))),
    "imagej": ("a.tif", lambda path: write_tiff(path, imagej=True)),
    "png": ("a.png", lambda path: write_png(path, IMAGE)),
    "npy": ("a.npy", lambda path: np.save(path, STACK)),
    "npz": ("a.npz", lambda path: np.savez(path, STACK)),
    "hdf5": ("a.h5", lambda path: write_hdf5(path, image=STACK)),
    "mrc": ("a.mrc", lambda path: write_mrc(path, STACK, 1.0)),
    "emd": ("a.emd", lambda path: write_berkeley_emd(path, IMAGE, 1.0)),
    "dm3": ("a.dm3", lambda path: path.write_bytes((DATA / "haadf_tilt_series.dm3").read_bytes())),
    "dm4": ("a.dm4", lambda path: path.write_bytes((DATA / "spim4-2-df-ref.dm4").read_bytes())),
}


@pytest.mark.parametrize(("name", "write"), [*WRITERS.values()], ids=[*WRITERS])
def test_truncated_files_are_never_read_as_something_else(
    tmp_path: Path, name: str, write: Callable[[Path], object]
) -> None:
    if name.endswith(("mrc", "emd", "dm3", "dm4")):
        pytest.importorskip("rsciio")
    path = tmp_path / name
    write(path)
    whole, original = read_micrographs(path), path.read_bytes()
    for fraction in (0.001, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        path.write_bytes(original[: max(1, int(fraction * len(original)))])
        try:
            part = read_micrographs(path)
        except DataError:
            continue
        assert len(part) == len(whole)  # only what follows the pixels was lost
        for found, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_damage_is_not_logged_past_the_user(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, imagej=True)
    path.write_bytes(path.read_bytes()[:5000])
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError):
        read_micrographs(path)
    assert caplog.records == []


@pytest.mark.parametrize("dtype", ["<u2", "|O"])
@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_pickled_zarr_chunks_are_not_run(tmp_path: Path, dtype: str, place: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "a.zarr"
    path.mkdir()
    codec = {"id": "pickle", "protocol": 5}
    metadata: dict[str, object] = {"zarr_format": 2, "shape": [2, 2], "chunks": [2, 2]}
    metadata |= {"dtype": dtype, "order": "C", "fill_value": 0, "compressor": None, "filters": None}
    metadata[place] = [codec] if place == "filters" else codec
    (path / ".zarray").write_text(json.dumps(metadata))
    (path / "0.0").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        read_micrographs(path)
    assert not (tmp_path / "sprung").exists()
