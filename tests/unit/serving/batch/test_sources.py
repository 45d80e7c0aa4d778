"""What a user names is found as scans with names of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from pyarrow import parquet
from upath import UPath

from stem_complete.errors import ConfigError, DataError
from stem_complete.serving.batch.sources import find_sources


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def named(found):
    return {str(source): source.name for source in found.sources}


def test_files_folders_and_globs_have_names_below_what_was_searched():
    touch("scans/mon/1.tif", "scans/2.npy", "more/x.tif")
    found = find_sources(["scans", "more/*.tif"])
    assert named(found) == {"scans/mon/1.tif": "mon/1", "scans/2.npy": "2", "more/x.tif": "x"}


class TestLists:
    def test_of_paths_begin_where_the_list_lies(self):
        touch("lists/a/1.tif", "lists/b/1.tif")
        Path("lists/all.txt").write_text("# two days\na/1.tif\n\nb/1.tif\tb/dwell.npy\n")
        found = find_sources(["lists/all.txt"])
        assert named(found) == {"lists/a/1.tif": "a/1", "lists/b/1.tif": "b/1"}
        assert [source.dwell for source in found.sources] == [None, "lists/b/dwell.npy"]

    def test_may_be_parquet(self, folder):
        scans = [str(folder / "x" / "1.tif"), "s3://bucket/x/2.tif"]
        columns = {"scan": scans, "dwell": [None, "s3://bucket/d.npy"], "other": [1, 2]}
        parquet.write_table(pa.table(columns), "all.parquet")
        found = find_sources(["all.parquet"])
        assert [source.scan for source in found.sources] == scans
        assert [source.dwell for source in found.sources] == [None, "s3://bucket/d.npy"]

    def test_are_no_samples(self):
        columns = {"x": [1.0, 2.0], "y": [1.0, 2.0], "intensity": [1.0, 2.0], "scan": [0, 0]}
        parquet.write_table(pa.table(columns), "samples.parquet")
        assert named(find_sources(["samples.parquet"])) == {"samples.parquet": "samples"}

    def test_at_urls(self):
        (UPath("memory://lists/all.txt")).write_text("a/1.tif\nb/1.tif")
        found = find_sources(["memory://lists/all.txt"])
        assert named(found) == {"memory://lists/a/1.tif": "a/1", "memory://lists/b/1.tif": "b/1"}

    @pytest.mark.parametrize(
        ("content", "error"),
        [(None, "no such file"), (b"", "an empty one"), (b"\xff\xfe\n", "in UTF-8")],
    )
    def test_that_are_none_are_one_line(self, content, error):
        if content is not None:
            Path("x.txt").write_bytes(content)
        with pytest.raises(DataError, match=error) as caught:
            find_sources(["x.txt"])
        assert "x.txt" in str(caught.value)

    def test_name_their_dwell_maps_themselves(self):
        touch("1.tif")
        Path("x.txt").write_text("1.tif")
        with pytest.raises(ConfigError, match="in the list"):
            find_sources(["x.txt"], dwell="dwell")


def test_each_scan_of_an_array_has_a_number():
    zarr.create_array("a.zarr", data=np.ones((3, 4, 5)))
    zarr.create_array("image.zarr", data=np.ones((4, 5)))
    found = find_sources(["a.zarr", "image.zarr"])
    assert named(found) == {f"a.zarr[{n}]": f"a-00000{n}" for n in range(3)} | {
        "image.zarr": "image"
    }


def test_a_damaged_array_is_listed():
    Path("a.zarr").mkdir()
    Path("a.zarr/zarr.json").write_text("{")
    touch("b.tif")
    found = find_sources(["a.zarr", "b.tif"])
    assert list(named(found)) == ["b.tif"]
    assert "expected a zarr array" in found.failed["a.zarr"].reason


def test_those_of_one_name_are_listed_and_the_others_go_on():
    zarr.create_array("1.zarr", data=np.ones((3, 4, 5)))
    touch("b/1-000002.npy", "c/x.tif", "c/x.dm4", "c/y.tif")
    found = find_sources(["1.zarr", "b/1-000002.npy", "c"])
    assert list(named(found)) == ["1.zarr[0]", "1.zarr[1]", "c/y.tif"]
    assert {name: failure.reason for name, failure in found.failed.items()} == {
        "1.zarr[2]": "b/1-000002.npy would be written to 1-000002_completed, too",
        "b/1-000002.npy": "1.zarr[2] would be written to 1-000002_completed, too",
        "c/x.dm4": "c/x.tif would be written to x_completed, too",
        "c/x.tif": "c/x.dm4 would be written to x_completed, too",
    }


def test_keys_are_the_same_from_another_folder(folder, monkeypatch):
    touch("scans/1.tif")
    (here,) = find_sources(["scans/1.tif"]).sources
    monkeypatch.chdir("scans")
    (there,) = find_sources(["1.tif"]).sources
    assert here.scan != there.scan
    assert there.key == str(folder / "scans" / "1.tif")
