"""OME-Zarr that is written: valid, the same when it is read, a pyramid of means."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image

from stem_complete.data.formats.micrographs import read_file
from stem_complete.data.formats.ome_zarr_writer import read_own, write_ome_zarr

SHAPES = [(40, 48), (3, 40, 48), (1025, 600), (32, 1100)]


def images(shape):
    image = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    return {"completion": image, "error": np.abs(image - 100)}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "image.ome.zarr"
    folder.mkdir()
    return folder


def levels_of(folder):
    (multiscale,) = zarr.open_group(folder, mode="r").attrs["ome"]["multiscales"]
    return multiscale["datasets"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("pixel_size_nm", [0.05, None])
def test_it_is_valid_and_comes_back_as_it_was(folder, shape, pixel_size_nm):
    channels = images(shape)
    own = {"intensity_unit": "nA", "acquisition": {"General": {"date": "2026-01-02"}}}
    write_ome_zarr(folder, channels, pixel_size_nm, "gold", own)
    Image.from_zarr(zarr.open_group(folder, mode="r"))
    assert read_own(folder) == own
    found = read_file(folder).micrographs
    for name, pixels in channels.items():
        frames = [each for each in found if each.name == name]
        np.testing.assert_array_equal(
            [each.pixels for each in frames], pixels.reshape(-1, *shape[-2:])
        )
        assert {each.pixel_size_nm for each in frames} == {pixel_size_nm}
        assert {(each.about.title, each.about.unit) for each in frames} == {("gold", "nA")}
        assert frames[0].about.metadata == own["acquisition"]


def test_axes_have_the_unit_of_the_pixel_size_alone(folder, tmp_path):
    def units(path, pixel_size_nm):
        path.mkdir(exist_ok=True)
        write_ome_zarr(path, images((40, 48)), pixel_size_nm, "gold", {})
        (multiscale,) = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"]
        scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
        return [axis.get("unit") for axis in multiscale["axes"]], scale

    assert units(folder, 0.05) == ([None, "nanometer", "nanometer"], [1, 0.05, 0.05])
    assert units(tmp_path / "none", None) == ([None, None, None], [1, 1, 1])


def test_levels_are_means_in_place(folder):
    y, x = np.mgrid[:1024, :512].astype(np.float32)
    write_ome_zarr(folder, {"completion": y, "error": x}, 0.5, "ramps", {})
    root = zarr.open_group(folder, mode="r")
    assert [root[each["path"]].shape for each in levels_of(folder)] == [
        (2, 1024, 512),
        (2, 512, 256),
        (2, 256, 128),
    ]
    for each in levels_of(folder):
        scale, shift = each["coordinateTransformations"]
        _, step, _ = scale["scale"]
        _, first, _ = shift["translation"]
        rows, columns = root[each["path"]][:]
        # A ramp says where each pixel's centre is.
        np.testing.assert_allclose(rows[:, 0] * 0.5, first + step * np.arange(len(rows)))
        np.testing.assert_allclose(columns[0] * 0.5, first + step * np.arange(len(columns[0])))


def test_of_an_odd_side_no_pixel_is_lost(folder):
    image = np.zeros((513, 32), np.float32)
    image[-1] = 4.0
    write_ome_zarr(folder, {"completion": image}, None, "edge", {})
    small = zarr.open_group(folder, mode="r")["1"][0]
    assert small.shape == (257, 16)
    assert (small[-1] == 4.0).all()


def test_a_shard_is_a_whole_channel_of_a_whole_image(folder):
    write_ome_zarr(folder, images((2, 700, 520)), None, "stack", {})
    array = zarr.open_group(folder, mode="r")["0"]
    assert (array.chunks, array.shards) == ((1, 1, 512, 512), (1, 1, 1024, 1024))
    names = {
        path.relative_to(folder / "0").as_posix()
        for path in (folder / "0/c").rglob("*")
        if path.is_file()
    }
    assert names == {f"c/{frame}/{channel}/0/0" for frame in (0, 1) for channel in (0, 1)}


def test_an_image_of_zeros_has_its_shards(folder):
    write_ome_zarr(folder, {"completion": np.zeros((32, 32), np.float32)}, None, "dark", {})
    assert (folder / "0/c/0/0/0").is_file()
