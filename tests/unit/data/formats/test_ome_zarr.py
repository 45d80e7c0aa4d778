"""OME-Zarr in all its layouts: full size only, scales multiplied, channels as signals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from stem_complete.data.formats.micrographs import read_file, read_micrograph, read_micrographs
from stem_complete.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 48)).astype(np.uint16)
AXES_5D: list[dict[str, str]] = [
    {"name": "t", "type": "time"},
    {"name": "c", "type": "channel"},
    *({"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"),
]


def scaled(*scale: float) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": list(scale)}]


def create_pyramid(group: zarr.Group, data: Any, multiscale: dict[str, Any], **more: Any) -> None:
    """Three levels, described in the way of OME-Zarr 0.4 or, in zarr 3, of 0.5."""
    for level in range(3):
        group.create_array(str(level), data=data[..., :: 2**level, :: 2**level])
    described = {"multiscales": [multiscale], **more}
    group.attrs.update({"ome": described} if group.metadata.zarr_format == 3 else described)


def levels(num_axes: int, size: float) -> list[dict[str, Any]]:
    return [
        {
            "path": str(level),
            "coordinateTransformations": scaled(*[1.0] * (num_axes - 2), *[size * 2**level] * 2),
        }
        for level in range(3)
    ]


@pytest.mark.parametrize(
    ("own", "whole"), [(0.02, None), (1.0, 0.02), (0.1, 0.2), (None, 0.02)], ids=str
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_scales_are_multiplied(
    tmp_path: Path, own: float | None, whole: float | None, zarr_format: Any
) -> None:
    multiscale: dict[str, Any] = {"axes": AXES_5D[-2:], "datasets": levels(2, own or 1)}
    if own is None:
        multiscale["datasets"] = [{"path": str(level)} for level in range(3)]
    if whole is not None:
        multiscale["coordinateTransformations"] = scaled(whole, whole)
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    create_pyramid(group, IMAGE, multiscale)
    micrograph = read_micrograph(tmp_path / "a.zarr")
    np.testing.assert_array_equal(micrograph.pixels, IMAGE)
    assert micrograph.pixel_size_nm == pytest.approx(0.02)


@pytest.mark.parametrize(
    "transformations",
    [
        [],
        [{"type": "affine", "affine": [[1, 0, 0], [0, 1, 0]]}],
        [{"type": "scale", "path": "scales"}],
        scaled(1e6, 1e6),
    ],
    ids=["none", "affine", "in an array", "implausible"],
)
def test_a_scale_that_is_not_known_is_none(
    tmp_path: Path, transformations: list[dict[str, Any]]
) -> None:
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    create_pyramid(group, IMAGE, {"axes": AXES_5D[-2:], "datasets": datasets})
    assert read_micrograph(tmp_path / "a.zarr").pixel_size_nm is None


def test_coordinate_systems_of_ome_zarr_06(tmp_path: Path) -> None:
    steps = [{"type": "translation", "translation": [5, 5]}, *scaled(0.02, 0.02)]
    transformation = {"type": "sequence", "input": "0", "output": "a", "transformations": steps}
    multiscale = {
        "coordinateSystems": [{"name": "a", "axes": AXES_5D[-2:]}],
        "datasets": [{"path": "0", "coordinateTransformations": [transformation]}],
    }
    create_pyramid(zarr.create_group(tmp_path / "a.zarr"), IMAGE, multiscale)
    assert read_micrograph(tmp_path / "a.zarr").pixel_size_nm == pytest.approx(0.02)


@pytest.mark.parametrize("labels", [["HAADF", "BF"], None])
@pytest.mark.parametrize("num_times", [1, 3])
def test_channels_are_signals(tmp_path: Path, labels: list[str] | None, num_times: int) -> None:
    data = np.stack([IMAGE, IMAGE[::-1]])[None, :, None].repeat(num_times, axis=0)
    more = {"omero": {"channels": [{"label": label} for label in labels]}} if labels else {}
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    create_pyramid(group, data, {"axes": AXES_5D, "datasets": levels(5, 0.02)}, **more)
    names = labels or ["channel 0", "channel 1"]
    micrographs = read_micrographs(tmp_path / "a.zarr")
    assert [(m.name, m.frame) for m in micrographs] == [
        (name, frame) for name in names for frame in range(num_times)
    ]
    assert {m.pixel_size_nm for m in micrographs} == {0.02}
    np.testing.assert_array_equal(
        read_micrograph(tmp_path / "a.zarr", names[1], 0).pixels, IMAGE[::-1]
    )


@pytest.mark.parametrize("place", ["0", "A/1/0"], ids=["bioformats2raw", "plate"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_images_below_a_root_are_read_at_full_size(
    tmp_path: Path, place: str, zarr_format: Any
) -> None:
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    root.attrs.update({"bioformats2raw.layout": 3})
    data = IMAGE[None, None, None]
    multiscale = {"axes": AXES_5D, "datasets": levels(5, 0.02)}
    create_pyramid(root.create_group(place), data, multiscale)
    create_pyramid(root.create_group(place[:-1] + "1"), data[..., ::-1], multiscale)
    create_pyramid(root.create_group(f"{place}/labels/cells"), data > 9, multiscale)
    root.create_group("OME").attrs.update({"series": [place, "7"]})
    contents = read_file(tmp_path / "a.zarr")
    assert contents.skipped[0] == "7: listed, but not there"
    assert [m.name for m in contents.micrographs] == [place, place[:-1] + "1"]
    assert {(m.pixels.shape, m.pixel_size_nm) for m in contents.micrographs} == {((40, 48), 0.02)}


def test_what_is_listed_and_not_there_is_said(tmp_path: Path) -> None:
    plate = zarr.create_group(tmp_path / "a.zarr")
    wells = [{"path": "A/1"}, {"path": "A/2"}]
    plate.attrs["ome"] = {"plate": {"wells": wells}}
    well = plate.create_group("A/1")
    well.attrs["ome"] = {"well": {"images": [{"path": "0"}, {"path": "1"}]}}
    image = well.create_group("0")
    create_pyramid(image, IMAGE, {"axes": AXES_5D[-2:], "datasets": levels(2, 0.02)})
    del image["0"]
    contents = read_file(tmp_path / "a.zarr")
    assert [(m.name, m.pixels.shape, m.pixel_size_nm) for m in contents.micrographs] == [
        ("A/1/0", (20, 24), 0.04)
    ]
    lost = ("A/2", "A/1/1", "A/1/0/0")
    assert contents.skipped == [f"{name}: listed, but not there" for name in lost]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_links_in_circles_are_not_followed(tmp_path: Path, zarr_format: Any) -> None:
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    group.create_array("inner/image", data=IMAGE)
    (tmp_path / "a.zarr" / "self").symlink_to(".")
    (tmp_path / "a.zarr" / "inner" / "up").symlink_to("..")
    assert [m.name for m in read_micrographs(tmp_path / "a.zarr")] == ["inner/image"]


def test_each_image_of_a_group_is_read(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("other", data=IMAGE[::-1])
    described = [
        {"axes": AXES_5D[-2:], "datasets": levels(2, 0.02)},
        {"axes": AXES_5D[-2:], "datasets": levels(2, 0.02)},
        {"axes": AXES_5D[-2:], "datasets": [{"path": "other"}]},
    ]
    create_pyramid(group, IMAGE, {})
    group.attrs["ome"] = {"multiscales": described}
    first, second = read_micrographs(tmp_path / "a.zarr")
    np.testing.assert_array_equal(first.pixels, IMAGE)
    np.testing.assert_array_equal(second.pixels, IMAGE[::-1])
    assert (first.pixel_size_nm, second.pixel_size_nm) == (0.02, None)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_and_unwritten_arrays_do_not_hide_the_others(
    tmp_path: Path, zarr_format: Any
) -> None:
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    group.create_array("damaged", data=IMAGE)
    group.create_array("huge", shape=(10**6, 10**6), chunks=(10**5, 10**5), dtype="f8")
    group.create_array("image", data=IMAGE)
    create_pyramid(group.create_group("lacking"), IMAGE, {"axes": AXES_5D})
    metadata = "zarr.json" if zarr_format == 3 else ".zarray"
    (tmp_path / "a.zarr" / "damaged" / metadata).write_text("{")
    contents = read_file(tmp_path / "a.zarr")
    assert [m.name for m in contents.micrographs] == ["image"]
    assert contents.skipped == ["huge: declared, but never written, shape (1000000, 1000000)"]
    assert list(contents.damaged) == ["damaged", "lacking"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("codec", ["blosc", "other"])
def test_a_chunk_that_was_cut_off_is_told(tmp_path: Path, zarr_format: Any, codec: str) -> None:
    blosc = zarr.codecs.BloscCodec() if zarr_format == 3 else numcodecs.Blosc()
    options: dict[str, Any] = {"compressors": blosc} if codec == "blosc" else {}
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    group.create_array("image", data=IMAGE, chunks=(20, 24), **options)
    assert len(read_micrographs(tmp_path / "a.zarr")) == 1
    chunk = tmp_path / "a.zarr" / "image" / ("c/1/1" if zarr_format == 3 else "1.1")
    chunk.write_bytes(chunk.read_bytes()[:60])
    with pytest.raises(DataError, match="check that the file is complete"):
        read_file(tmp_path / "a.zarr")


@pytest.mark.parametrize("suffix", [".zarr.zip", ".ozx"])
@pytest.mark.parametrize("with_folder", [True, False])
def test_zipped(tmp_path: Path, suffix: str, with_folder: bool) -> None:
    group = zarr.create_group(tmp_path / "zip" / "a.zarr")
    create_pyramid(group, IMAGE, {"axes": AXES_5D[-2:], "datasets": levels(2, 0.02)})
    folder = tmp_path / "zip" if with_folder else tmp_path / "zip" / "a.zarr"
    Path(shutil.make_archive(str(tmp_path / "a"), "zip", folder)).rename(tmp_path / f"a{suffix}")
    micrograph = read_micrograph(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(micrograph.pixels, IMAGE)
    assert micrograph.pixel_size_nm == pytest.approx(0.02)


def test_dimensions_and_pixel_size_of_plain_arrays(tmp_path: Path) -> None:
    attributes = {"pixel_size": [0.02, 0.02], "units": "nm"}
    data = np.stack([IMAGE, IMAGE[::-1]], axis=-1)
    zarr.create_array(
        tmp_path / "a.zarr",
        data=data,
        dimension_names=("y", "x", "detector"),
        attributes=attributes,
    )
    micrographs = read_micrographs(tmp_path / "a.zarr")
    assert [m.name for m in micrographs] == ["channel 0", "channel 1"]
    np.testing.assert_array_equal(micrographs[1].pixels, IMAGE[::-1])


@pytest.mark.parametrize(
    ("axes", "path", "found"),
    [
        (AXES_5D[-2:], "9", "no array is there, of those that it lists: 9; check"),
        (AXES_5D, "0", "5 axes described of an array of shape"),
    ],
)
def test_a_description_that_does_not_fit_is_one_line(
    tmp_path: Path, axes: list[dict[str, str]], path: str, found: str
) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    create_pyramid(group, IMAGE, {"axes": axes, "datasets": [{"path": path}]})
    with pytest.raises(DataError, match=found):
        read_file(tmp_path / "a.zarr")


def test_text_as_zip_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.zarr.zip").write_text("hello")
    with pytest.raises(DataError, match=r"a readable \.zip file, found another start"):
        read_file(tmp_path / "a.zarr.zip")
