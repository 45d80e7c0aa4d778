from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from stem_complete.data.bundled import published_triples
from stem_complete.errors import ConfigError, DataError
from stem_complete.inference.image_files import error_map_of, preview_of
from stem_complete.inference.scan_files import plan_files


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Makes files in an empty working folder; what is in them does not matter here."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(b"x")

    return make


def _pairs(plan):
    return {str(each.scan): each.dwell and str(each.dwell) for each in plan.files}


def _outputs(plan):
    return {str(each.scan): str(each.image) for each in plan.files}


class TestOutputs:
    def test_of_files(self, tree):
        tree("a/x.tif", "b/y.npy")
        plan = plan_files(["a/x.tif", "b/y.npy"], Path("out"), None)
        assert _outputs(plan) == {
            "a/x.tif": "out/x_completed.tif",
            "b/y.npy": "out/y_completed.tif",
        }
        image = plan.files[0].image
        assert str(preview_of(image)) == "out/x_completed.png"
        assert str(error_map_of(image)) == "out/x_error.tif"

    def test_of_folders_keep_their_subfolders(self, tree):
        tree("scans/mon/1.tif", "scans/tue/1.tif", "scans/2.tif")
        assert set(_outputs(plan_files(["scans"], Path("out"), None)).values()) == {
            "out/mon/1_completed.tif",
            "out/tue/1_completed.tif",
            "out/2_completed.tif",
        }

    def test_of_globs_keep_them_too(self, tree):
        tree("scans/mon/1.tif", "scans/tue/1.tif", "scans/tue/other.tif")
        assert set(_outputs(plan_files(["scans/*/1.tif"], Path("out"), None)).values()) == {
            "out/mon/1_completed.tif",
            "out/tue/1_completed.tif",
        }

    def test_of_one_scan_may_be_named(self, tree):
        tree("a.tif")
        (each,) = plan_files(["a.tif"], Path("out/b.tif"), None).files
        assert str(each.image) == "out/b.tif"
        assert str(error_map_of(each.image)) == "out/b_error.tif"

    def test_of_several_may_not(self, tree):
        tree("a.tif", "b.tif")
        with pytest.raises(ConfigError, match="one file for 2 scans"):
            plan_files(["a.tif", "b.tif"], Path("out.tif"), None)

    def test_are_not_taken_for_scans(self, tree):
        tree("x.tif", "x_completed.tif", "x_completed.png", "x_error.tif")
        assert _outputs(plan_files(["."], Path(), None)) == {"x.tif": "x_completed.tif"}

    def test_alone_are_no_scans(self, tree):
        tree("out/x_completed.tif")
        with pytest.raises(DataError, match="only completed images"):
            plan_files(["out"], Path("out"), None)


class TestDwell:
    def test_none(self, tree):
        tree("a.tif")
        assert _pairs(plan_files(["a.tif"], Path("out"), None)) == {"a.tif": None}

    def test_one_file_serves_all_and_is_no_scan(self, tree):
        tree("scans/a.tif", "scans/b.tif", "scans/mask.tif")
        assert _pairs(plan_files(["scans"], Path("out"), "scans/mask.tif")) == {
            "scans/a.tif": "scans/mask.tif",
            "scans/b.tif": "scans/mask.tif",
        }

    def test_a_folder_holds_files_of_the_same_name(self, tree):
        tree("scans/a.tif", "scans/b.tif", "scans/c.tif", "dwell/a.tif", "dwell/b.npy")
        assert _pairs(plan_files(["scans"], Path("out"), "dwell")) == {
            "scans/a.tif": "dwell/a.tif",
            "scans/b.tif": "dwell/b.npy",
            "scans/c.tif": "dwell/c.tif",  # is not there; reading it will say so
        }

    def test_a_folder_among_the_scans_holds_no_scans(self, tree):
        tree("scans/a.tif", "scans/dwell/a.tif")
        pairs = _pairs(plan_files(["scans"], Path("out"), "scans/dwell"))
        assert pairs == {"scans/a.tif": "scans/dwell/a.tif"}

    def test_a_pattern_is_looked_for_beside_the_scan(self, tree):
        tree("s/scan-07.tif", "s/t/scan-8.tif", "s/mask-07.tif", "s/t/mask-8.tif")
        assert _pairs(plan_files(["s"], Path("out"), "mask-{number}.tif")) == {
            "s/scan-07.tif": "s/mask-07.tif",
            "s/t/scan-8.tif": "s/t/mask-8.tif",
        }

    def test_a_pattern_with_a_folder_is_a_path(self, tree):
        tree("s/x1.tif")
        pairs = _pairs(plan_files(["s"], Path("out"), "d/{name}_dwell.tif"))
        assert pairs == {"s/x1.tif": "d/x1_dwell.tif"}

    def test_the_published_examples(self):
        triples = published_triples()
        folder = triples[0].scan.parent
        plan = plan_files([str(folder / "partial_scan-*.tif")], Path("out"), "mask-{number}.tif")
        assert [(each.scan, each.dwell) for each in plan.files] == [
            (triple.scan, triple.dwell) for triple in triples
        ]

    def test_must_be_there(self, tree):
        tree("a.tif")
        with pytest.raises(ConfigError, match=r"pattern with \{name\} or \{number\}"):
            plan_files(["a.tif"], Path("out"), "nowhere")


def test_a_missing_file_does_not_stop_the_others(tree):
    tree("a.tif")
    plan = plan_files(["a.tif", "b.tif", "c.txt"], Path("out"), None)
    assert list(_pairs(plan)) == ["a.tif"]
    assert set(plan.failed) == {"b.tif", "c.txt"}


def test_what_a_folder_holds_that_cannot_be_read_is_listed(tree):
    tree("scans/a.npy", "elsewhere/b.npy")
    Path("scans/gone.npy").symlink_to("nowhere.npy")
    Path("scans/linked").symlink_to(Path("elsewhere").resolve())
    plan = plan_files(["scans"], Path("out"), None)
    assert [scan.scan for scan in plan.files] == [Path("scans/a.npy")]
    assert set(plan.failed) == {"scans/gone.npy", "scans/linked"}


def test_files_that_are_named_twice_are_completed_once(tree):
    tree("s/a.tif")
    assert len(plan_files(["s", "s/a.tif", "s/*.tif"], Path("out"), None).files) == 1


class TestUrls:
    @pytest.fixture
    def store(self):
        """An object store in memory, empty."""
        bucket = UPath("memory://scan-files")
        if bucket.exists():
            bucket.rmdir(recursive=True)

        def put(*names):
            for name in names:
                (bucket / name).write_bytes(b"x")

        return put

    def test_are_searched_as_folders_are(self, store):
        store("scans/mon/1.tif", "scans/2.npy", "scans/2_completed.tif", "scans/notes.md",
              "scans/.hidden/3.tif", "scans/a.zarr/zarr.json", "scans/a.zarr/c/0/0/0",
              "dwell/1.npy", "dwell/2.npy")  # fmt: skip
        root = "memory://scan-files"
        plan = plan_files([f"{root}/scans"], Path("out"), f"{root}/dwell")
        assert _outputs(plan) == {
            f"{root}/scans/2.npy": "out/2_completed.tif",
            f"{root}/scans/a.zarr": "out/a_completed.tif",
            f"{root}/scans/mon/1.tif": "out/mon/1_completed.tif",
        }
        assert _pairs(plan)[f"{root}/scans/mon/1.tif"] == f"{root}/dwell/1.npy"

    def test_may_be_globs_and_outputs(self, store):
        store("scans/1.tif", "scans/mask-1.tif", "scans/x.txt")
        root = "memory://scan-files"
        plan = plan_files([f"{root}/scans/*"], UPath(f"{root}/out"), "mask-{number}.tif")
        assert _outputs(plan) == {f"{root}/scans/1.tif": f"{root}/out/1_completed.tif"}
        assert _pairs(plan) == {f"{root}/scans/1.tif": f"{root}/scans/mask-1.tif"}

    def test_without_scans_are_listed(self, store):
        store("scans/x.txt")
        plan = plan_files(["memory://scan-files/scans"], Path("out"))
        assert "found none" in plan.failed["memory://scan-files/scans"].reason
