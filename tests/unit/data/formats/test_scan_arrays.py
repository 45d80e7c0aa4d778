"""Scans in zarr arrays are what the same scans in files are."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from stem_complete.data.conventions import raster_scan
from stem_complete.data.formats.scan_arrays import scan_array
from stem_complete.errors import DataError
from stem_complete.scan import archimedean

NUM, SHAPE = 3, (40, 50)
DWELL = archimedean(SHAPE, "1/5").dwell_map().numpy()
IMAGES = np.random.default_rng(0).normal(10, 1, (NUM, *SHAPE)).astype(np.float32)
SCANS = np.where(DWELL > 0, IMAGES, np.nan)


def written(path, **arrays):
    group = zarr.open_group(path, mode="w")
    for name, values in arrays.items():
        chunks = (2, *values.shape[1:]) if values.ndim > 1 else values.shape
        group.create_array(name, data=values, chunks=chunks)
    return group


def assert_is(scan, number, dwell=DWELL):
    np.testing.assert_array_equal(scan.dwell, dwell)
    np.testing.assert_array_equal(scan.intensity, SCANS[number].astype(np.float64))


def test_an_array_of_images_says_itself_what_was_measured(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=SCANS, attributes={"pixel_size_nm": 0.1})
    array = scan_array(str(tmp_path / "a.zarr"))
    assert (len(array), array.shape, array.pixel_size_nm) == (NUM, SHAPE, 0.1)
    for number in range(NUM):
        assert_is(array.read(number), number, DWELL > 0)


@pytest.mark.parametrize("each", [False, True], ids=["of all", "one each"])
@pytest.mark.parametrize("kind", ["array", "named array", "attribute", "file"])
def test_dwell_maps_are_beside_it(tmp_path, kind, each):
    dwell = np.stack([DWELL, DWELL, DWELL]) if each else DWELL
    arrays = {"scans": np.nan_to_num(SCANS)}
    if kind == "array":
        arrays["dwell"] = dwell
    elif kind == "named array":
        arrays["times"] = dwell
    group = written(tmp_path / "a.zarr", **arrays)
    if kind == "named array":
        group.attrs["dwell"] = "times"
    elif kind == "attribute":
        group.attrs["dwell"] = dwell.tolist()
    file = None
    if kind == "file":
        file = tmp_path / "dwell.npy"
        np.save(file, dwell)
    array = scan_array(str(tmp_path / "a.zarr"))
    assert_is(array.read(2, file), 2)
    assert ("dwell map" in array.content(0)) is (kind != "file")


@pytest.mark.parametrize("kind", ["array", "file"])
def test_intensities_along_a_path(tmp_path, kind):
    path = archimedean(SHAPE, "1/5")
    x, y = path.positions.numpy().T
    dwell = path.dwell.numpy()
    samples = np.random.default_rng(0).normal(size=(NUM, len(x)))
    along = None
    if kind == "array":
        written(tmp_path / "a.zarr", intensity=samples, x=x, y=y, dwell=dwell)
    else:
        zarr.create_array(tmp_path / "a.zarr", data=samples)
        along = tmp_path / "path.csv"
        table = np.column_stack([x, y, dwell])
        np.savetxt(along, table, delimiter=",", header="x,y,dwell", comments="")
    array = scan_array(str(tmp_path / "a.zarr"), along=along is not None)
    assert array.shape is None
    scan = array.read(1, along=along)
    np.testing.assert_array_equal(scan.intensity, samples[1])
    np.testing.assert_allclose(scan.path.positions, path.positions, atol=1e-5)


def test_of_several_arrays_the_signal_chooses(tmp_path):
    written(tmp_path / "a.zarr", haadf=SCANS, bf=2 * SCANS)
    assert scan_array(str(tmp_path / "a.zarr")) is None
    assert_is(scan_array(str(tmp_path / "a.zarr"), "haadf").read(0), 0, DWELL > 0)


def test_what_is_no_array_of_scans_is_left_to_the_reader_of_files(tmp_path):
    zarr.create_array(tmp_path / "image.zarr", data=SCANS[0])
    zarr.create_array(tmp_path / "c.zarr", data=SCANS, dimension_names=("channel", "y", "x"))
    zarr.open_group(tmp_path / "ome.zarr", mode="w", attributes={"ome": {"multiscales": []}})
    for name in ("image", "c", "ome"):
        assert scan_array(str(tmp_path / f"{name}.zarr")) is None


def test_content_is_that_of_one_scan(tmp_path):
    group = written(tmp_path / "a.zarr", scans=SCANS, dwell=DWELL)
    before = scan_array(str(tmp_path / "a.zarr"))
    contents = [before.content(number) for number in range(NUM)]
    assert len({each["scan"] for each in contents}) == NUM
    assert len({each["dwell map"] for each in contents}) == 1
    group["scans"][1] = SCANS[1] + 1
    after = scan_array(str(tmp_path / "a.zarr"))
    changed = [after.content(number) != contents[number] for number in range(NUM)]
    assert changed == [False, True, False]


def test_files_are_those_of_its_chunks(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=SCANS, chunks=(2, *SHAPE))
    array = scan_array(str(tmp_path / "a.zarr"))
    assert [file.name for file in array.files(1)] == ["0"]
    assert all(file.is_file() for file in array.files(2))
    assert array.files(2) != array.files(1)


def test_files_of_its_dwell_and_path_count(tmp_path):
    each = written(tmp_path / "a.zarr", scans=SCANS, dwell=np.stack([DWELL] * NUM))
    assert len(each["dwell"].chunks) == 3
    assert len(scan_array(str(tmp_path / "a.zarr")).files(2)) == 2
    written(tmp_path / "b.zarr", scans=SCANS, dwell=DWELL)  # in chunks of two rows
    assert len(scan_array(str(tmp_path / "b.zarr")).files(2)) == 1 + SHAPE[0] // 2
    written(tmp_path / "c.zarr", intensity=SCANS[:, 0], x=DWELL[0], y=DWELL[0], dwell=DWELL[0])
    files = scan_array(str(tmp_path / "c.zarr")).files(0)
    of_arrays = {file.relative_to(tmp_path / "c.zarr").parts[0] for file in files}
    assert of_arrays == {"intensity", "x", "y", "dwell"}


def test_a_damaged_chunk_and_an_unwritten_one_are_one_line(tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=SCANS.shape, chunks=(1, *SHAPE), dtype="float32"
    )
    array[0], array[1] = SCANS[0], SCANS[1]
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "0").write_bytes(b"x")
    scans = scan_array(str(tmp_path / "a.zarr"))
    for number in (0, 2):
        with pytest.raises(DataError, match=r"a\.zarr") as caught:
            scans.read(number)
        assert "\n" not in str(caught.value)
    assert_is(scans.read(1), 1, DWELL > 0)
    with pytest.raises(DataError, match="a zarr array or group"):
        scan_array(str(tmp_path / "none.zarr"))


def test_it_reads_as_the_arrays_would(tmp_path):
    written(tmp_path / "a.zarr", scans=SCANS, dwell=DWELL)
    expected = raster_scan(SCANS[1], DWELL)
    scan = scan_array(str(tmp_path / "a.zarr")).read(1)
    np.testing.assert_array_equal(scan.intensity, expected.intensity)
    assert str(scan.where).endswith("a.zarr[1]")


ATTRIBUTES = {
    "units": "counts",
    "title": "gold",
    "pixel_size_nm": 0.1,
    "acquisition": {"kV": 300},
    "detector": "HAADF",
}


@pytest.mark.parametrize("along", [False, True], ids=["images", "along a path"])
def test_attributes_say_unit_title_and_acquisition(tmp_path, along):
    if along:
        shape = {"shape": [40, 50]}
        path = archimedean(SHAPE, "1/5")
        x, y = path.positions.numpy().T
        group = written(tmp_path / "a.zarr", intensity=np.tile(x, (NUM, 1)), x=x, y=y)
    else:
        shape = {}
        group = written(tmp_path / "a.zarr", scans=SCANS)
    group.attrs.update(ATTRIBUTES | shape)
    scan = scan_array(str(tmp_path / "a.zarr")).read(1)
    raster = scan.raster()
    told = dict(raster.about.metadata)
    told.pop("pixel_size_nm", None)
    assert raster.about[:2] == ("gold", "counts")
    assert told == {"kV": 300, "detector": "HAADF"} | shape
    assert (raster.shape, raster.pixel_size_nm) == (SHAPE, 0.1)


def test_a_changed_attribute_is_changed_content(tmp_path):
    group = written(tmp_path / "a.zarr", scans=SCANS)
    before = scan_array(str(tmp_path / "a.zarr")).content(0)
    group["scans"].attrs["pixel_size_nm"] = 0.2
    assert scan_array(str(tmp_path / "a.zarr")).content(0) != before
