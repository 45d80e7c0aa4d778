"""Completed files: the manifest, what is done again, who may write, what hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from upath import UPath

from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.data.formats.scan_arrays import ScanArray
from stem_complete.data.scan_options import ScanOptions
from stem_complete.errors import BusyError, ConfigError, MissingPackageError
from stem_complete.inference import Completer, Outputs
from stem_complete.inference.image_files import read_info
from stem_complete.serving.batch import complete_files
from stem_complete.serving.batch.files import SUFFIXES
from stem_complete.serving.batch.worker import Worker
from stem_complete.storage import claim
from stem_complete.storage.manifest import FOLDER

ALL = Outputs(error_map=True, self_check=True)
FORMATS = ["tiff", "npy", "ome-zarr", "hspy"]


def complete(saved, output="out", file_format=None, outputs=ALL, **options):
    return complete_files(
        ["scans"], saved, output, file_format=file_format, outputs=outputs, **options
    )


@pytest.fixture
def nothing_to_do(monkeypatch):
    """From now on no worker may get work."""

    def forbid():
        monkeypatch.setattr(Worker, "complete", lambda *_: pytest.fail("nothing is to be done"))

    return forbid


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_the_manifest_says_is_not_looked_at_again(scans, saved, nothing_to_do, file_format):
    first = complete(saved, file_format=file_format)
    nothing_to_do()
    assert complete(saved, file_format=file_format).skipped == first.done


@pytest.mark.parametrize(
    ("file_format", "added"),
    [("tiff", ".tif"), ("npy", ".json"), ("ome-zarr", ".ome.zarr"), ("hspy", ".hspy")],
)
def test_a_name_that_gets_too_long_is_listed_and_the_others_go_on(scans, saved, file_format, added):
    longest = "n" * (255 - len(f"_completed{added}"))
    for number in range(1, 5):
        Path(f"scans/{number}.npy").unlink()
    shutil.copy("scans/0.npy", f"scans/{longest}.npy")
    shutil.copy("scans/0.npy", f"scans/{longest}n.npy")
    report = complete(saved, file_format=file_format, outputs=Outputs())
    assert set(report.done) == {"scans/0.npy", f"scans/{longest}.npy"}
    [(name, reason)] = report.failed.items()
    assert name == f"scans/{longest}n.npy"
    assert f"_completed{added} can be added, 255 bytes in all, found 256 bytes" in reason
    assert not complete(saved, "out.zarr", outputs=Outputs()).failed


@pytest.mark.parametrize("file_format", FORMATS)
def test_without_a_manifest_images_say_what_they_are_of(scans, saved, digests, file_format):
    complete(saved, file_format=file_format)
    before = digests("out")
    manifest = Path("out", FOLDER, "manifest.jsonl")
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:2]))  # killed between a rename and its line
    image = Path(f"out/4_completed{SUFFIXES[file_format]}")
    shutil.rmtree(image) if image.is_dir() else image.unlink()
    report = complete(saved, file_format=file_format)
    assert list(report.done) == ["scans/4.npy"]
    assert len(report.skipped) == 4
    assert digests("out") == before
    assert {json.loads(line)["unit"] for line in manifest.read_bytes().splitlines()} == {
        Path(name).name for name in (report.done | report.skipped).values()
    }


@pytest.mark.parametrize("file_format", FORMATS)
def test_another_order_gives_the_same_bytes(scans, saved, digests, file_format):
    complete(saved, "one", file_format)
    for number in (3, 0, 4):
        source = f"scans/{number}.npy"
        complete_files([source], saved, "two", outputs=ALL, file_format=file_format)
    complete(saved, "two", file_format)
    assert digests("one") == digests("two")


def test_a_damaged_completion_is_done_again_and_said(scans, saved, digests):
    complete(saved)
    before = digests("out")
    image = Path("out/1_completed.tif")
    image.write_bytes(image.read_bytes()[:-8])
    report = complete(saved)
    assert report.notes["scans/1.npy"].startswith("done again, as its completion changed")
    assert list(report.done) == ["scans/1.npy"]
    assert digests("out") == before


def test_another_dwell_map_makes_another_completion(scans, saved):
    dwell = np.isfinite(np.load("scans/0.npy")).astype(np.float32)
    np.save("a.npy", dwell)
    np.save("b.npy", dwell / 2)
    for name in ("a", "a", "b"):
        report = complete_files(["scans/0.npy"], saved, "out", dwell=f"{name}.npy")
        assert bool(report.skipped) is (name == "a" and bool(Path("again").exists()))
        Path("again").touch()
    assert report.notes["scans/0.npy"].startswith("done again, as its dwell map changed")


def test_a_second_driver_is_refused(scans, saved):
    with (
        claim.claimed(UPath("out") / FOLDER),
        pytest.raises(BusyError, match=r"completes scans to it.*choose another output"),
    ):
        complete(saved)
    assert len(complete(saved).done) == 5
    assert not Path("out", FOLDER, claim.CLAIM_FILE).exists()


def test_a_driver_that_was_taken_over_writes_no_more(scans, saved, monkeypatch):
    work, path = Worker.complete, Path("out", FOLDER, claim.CLAIM_FILE)

    def taken_over(self, parcel):
        if parcel[0].name.startswith("2"):
            holder = json.loads(path.read_text()) | {"id": "another"}
            path.write_text(json.dumps(holder))
        return work(self, parcel)

    monkeypatch.setattr(Worker, "complete", taken_over)
    monkeypatch.setattr("stem_complete.serving.batch.worker.CHECK_S", -1.0)
    with pytest.raises(claim.ClaimLostError, match="this process to hold the output"):
        complete(saved)
    assert sorted(file.name for file in Path("out").glob("*_completed.tif")) == [
        "0_completed.tif",
        "1_completed.tif",
    ]


class TestHangs:
    @pytest.fixture
    def hanging(self, monkeypatch):
        """Reading scan 1 hangs so often."""

        def hang(times):
            from stem_complete.serving.batch import reading

            read, left = reading.read_scans, [times]

            def stuck(file, *args, **options):
                if file.name == "1.npy" and left[0]:
                    left[0] -= 1
                    signal.pause() if hasattr(signal, "pause") else time.sleep(1e9)
                return read(file, *args, **options)

            monkeypatch.setattr(reading, "read_scans", stuck)

        return hang

    def test_once_costs_a_retry(self, scans, saved, hanging):
        hanging(1)
        report = complete(saved, timeout_s=0.5, outputs=Outputs())
        assert (len(report.done), report.failed) == (5, {})

    def test_twice_costs_the_scan(self, scans, saved, hanging):
        hanging(2)
        report = complete(saved, timeout_s=0.5, outputs=Outputs())
        assert len(report.done) == 4
        assert "took longer than" in report.failed["scans/1.npy"]
        (row,) = [json.loads(line) for line in Path("out/errors.jsonl").read_text().splitlines()]
        assert row["file"] == "scans/1.npy"
        assert "--timeout" in row["fix"]


@pytest.mark.parametrize("damage", ["cut", "gone", "more"])
def test_a_damaged_folder_is_done_again(scans, saved, digests, damage):
    complete(saved, file_format="ome-zarr")
    before = digests("out")
    chunk = Path("out/1_completed.ome.zarr/0/c/1/0/0")
    chunk.unlink() if damage == "gone" else chunk.write_bytes(
        chunk.read_bytes()[:-1] if damage == "cut" else b""
    )
    report = complete(saved, file_format="ome-zarr")
    assert list(report.done) == ["scans/1.npy"]
    assert digests("out") == before


def test_an_error_map_that_is_asked_for_later_becomes_a_channel(scans, saved, digests):
    complete(saved, "both", "ome-zarr")
    complete(saved, "out", "ome-zarr", ALL._replace(error_map=False))
    assert not Path("out/1_completed.ome.zarr/0/c/1").exists()
    assert len(complete(saved, "out", "ome-zarr").done) == 5
    assert digests("out") == digests("both")
    assert len(complete(saved, "out", "ome-zarr").skipped) == 5


def test_drafts_of_folders_are_removed_after_a_kill(scans, saved, digests):
    complete(saved, file_format="ome-zarr")
    before = digests("out")
    for name in (".unfinished-7-1_completed.ome.zarr", ".replaced-7-1_completed.ome.zarr"):
        shutil.copytree("out/1_completed.ome.zarr", f"out/{name}")
    shutil.rmtree("out/1_completed.ome.zarr")  # killed between two renames
    path = Path("out", FOLDER, claim.CLAIM_FILE)
    with claim.claimed(UPath("out") / FOLDER):
        holder = json.loads(path.read_text())
    path.write_text(json.dumps(holder | {"pid": 2**22 + 1}))  # larger than any
    assert list(complete(saved, file_format="ome-zarr").done) == ["scans/1.npy"]
    assert digests("out") == before


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_say_by_which_model_and_options(scans, saved, file_format):
    options = ScanOptions(unmeasured=-1.0)
    complete(saved, file_format=file_format, options=options)
    info = read_info(Path(f"out/1_completed{SUFFIXES[file_format]}"))
    assert (info["model"], info["model_sha256"]) == (saved.card.name, saved.card.weights_sha256)
    assert info["options"] == {
        "self_check": True,
        "keep_measured": False,
        "precision": "float32",
        "published": False,
        "unmeasured": -1.0,
    }


def test_completions_in_folders_of_scans_are_not_completed(scans, saved):
    for file_format in FORMATS:
        complete(saved, "scans", file_format)
    Path("scans/2_completed.ome.zarr").rename("scans/renamed.zarr")
    assert len(complete(saved, "other").done) == 5


def test_without_rosettasciio_hspy_names_what_to_install(scans, saved, monkeypatch):
    monkeypatch.setattr("stem_complete.extras.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"package rsciio.*stem-complete\[microscopy\]"):
        complete(saved, file_format="hspy")
    assert not Path("out").exists()


def test_failures_are_told_while_the_run_goes_on(scans, saved, monkeypatch):
    for number in (1, 3):
        np.save(f"scans/{number}.npy", np.zeros(3))
    work, seen = Worker.complete, []

    def look(self, parcel):
        lines = Path("out/errors.jsonl").read_text() if Path("out/errors.jsonl").exists() else ""
        seen.append([json.loads(line)["file"] for line in lines.splitlines()])
        return work(self, parcel)

    monkeypatch.setattr(Worker, "complete", look)
    assert len(complete(saved).failed) == 2
    assert seen == [[], [], ["scans/1.npy"], ["scans/1.npy"], ["scans/1.npy", "scans/3.npy"]]


def test_a_scan_that_breaks_its_batch_fails_alone(scans, saved, monkeypatch):
    work = Completer.complete_scans

    def breaks(self, scans, **options):
        if any(scan.name == "1.npy" for scan in scans):
            raise RuntimeError("out of memory\nand more")
        return work(self, scans, **options)

    monkeypatch.setattr(Completer, "complete_scans", breaks)
    report = complete(saved, batch_size=8)
    assert report.failed == {
        "scans/1.npy": "RuntimeError: out of memory; free memory, or take a larger machine"
    }
    assert len(report.done) == 4


def test_an_unforeseen_error_of_a_reader_fails_one_scan(scans, saved, monkeypatch):
    zarr.create_array("a.zarr", data=np.load("scans/0.npy")[None].repeat(2, 0))
    read = ScanArray.read

    def fails(self, index, *args):
        if index == 1:
            raise ZeroDivisionError
        return read(self, index, *args)

    monkeypatch.setattr(ScanArray, "read", fails)
    report = complete_files(["a.zarr"], saved, "out")
    assert list(report.done) == ["a.zarr[0]"]
    assert "ZeroDivisionError" in report.failed["a.zarr[1]"]


BAD = {
    "empty.npy": lambda path: path.write_bytes(b""),
    "cut.npy": lambda path: path.write_bytes(Path("scans/0.npy").read_bytes()[:300]),
    "other.tif": lambda path: path.write_text("no TIFF"),
    "lost.npy": lambda path: path.symlink_to("nowhere.npy"),
    "pipe.npy": os.mkfifo,
    "line.npy": lambda path: np.save(path, np.ones(9)),
    "complex.npy": lambda path: np.save(path, np.ones((40, 48), np.complex64)),
    "infinite.npy": lambda path: np.save(path, np.full((40, 48), np.inf)),
    "nothing.npy": lambda path: np.save(path, np.full((40, 48), np.nan)),
    "constant.npy": lambda path: np.save(path, np.load("scans/0.npy") * 0),
    "small.npy": lambda path: np.save(path, np.load("scans/0.npy")[:20]),
    "two.npz": lambda path: np.savez(path, a=np.ones((40, 48)), b=np.ones((40, 48))),
    "dwell.npz": lambda path: np.savez(path, scan=np.ones((40, 48)), dwell=np.ones((9, 9))),
    "columns.csv": lambda path: path.write_text("a,b\n1,2\n"),
    "nowhere.csv": lambda path: path.write_text("x,y,intensity\nnan,nan,1\n"),
}


@pytest.mark.parametrize("output", ["out", "out.zarr"])
def test_each_bad_scan_of_a_folder_is_listed_with_a_reason_and_a_fix(scans, saved, output):
    for name, write in BAD.items():
        write(Path("scans", name))
    torn = zarr.create_array(
        "scans/torn.zarr", data=np.load("scans/0.npy")[None], chunks=(1, 40, 48)
    )
    chunk = Path("scans/torn.zarr/c/0/0/0")
    chunk.write_bytes(chunk.read_bytes()[: torn.nbytes_stored() // 99])
    report = complete(saved, output, outputs=Outputs())
    assert len(report.done) == 5
    rows = [json.loads(line) for line in Path(output, "errors.jsonl").read_text().splitlines()]
    assert {Path(row["file"]).name for row in rows} == {*BAD, "torn.zarr[0]"}
    for row in rows:
        assert list(row) == ["file", "reason", "fix"]
        assert row["fix"]
        assert row["fix"] not in row["reason"]
        assert Path(row["file"]).name.split(".")[0] in row["reason"]
        assert report.failed[row["file"]] == f"{row['reason']}; {row['fix']}"


def test_one_image_may_be_named(scans, saved):
    for name in ("one.tif", "one.npy", "one.hspy", "one.ome.zarr"):
        assert complete_files(["scans/0.npy"], saved, name).done == {"scans/0.npy": name}
        assert list(complete_files(["scans/0.npy"], saved, name).skipped) == ["scans/0.npy"]
    np.testing.assert_array_equal(np.load("one.npy"), tifffile.imread("one.tif"))
    np.testing.assert_array_equal(np.load("one.npy"), read_micrograph(Path("one.hspy")).pixels)
    np.testing.assert_array_equal(np.load("one.npy"), read_micrograph(Path("one.ome.zarr")).pixels)
    assert not Path(FOLDER).exists()
    with pytest.raises(ConfigError, match="one file for 5 scans"):
        complete(saved, "all.tif")


def test_a_submitted_job_needs_an_absolute_output(scans, saved, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match="an absolute path or a URL for the output"):
        complete(saved)
    assert len(complete(saved, str(Path("out").absolute())).done) == 5


@pytest.mark.parametrize("file_format", [*FORMATS, "zarr"])
def test_object_stores_hold_what_disks_do(scans, saved, digests, file_format, request):
    bucket = UPath(f"memory://{request.node.name.replace('[', '-').rstrip(']')}")
    for number in range(5):
        (bucket / f"scans/{number}.npy").write_bytes(Path(f"scans/{number}.npy").read_bytes())
    given = {"file_format": file_format, "outputs": ALL}
    report = complete_files([f"{bucket}/scans"], saved, f"{bucket}/out", **given)
    assert len(report.done) == 5
    assert report.failed == {}
    assert len(complete_files([f"{bucket}/scans"], saved, f"{bucket}/out", **given).skipped) == 5
    complete(saved, "out", file_format)
    names = {name for name in digests("out") if file_format != "zarr" or "/c/" not in name}
    there = {
        str(name).strip("/").partition("/out/")[2] for name in bucket.fs.find(f"{bucket.path}/out")
    }
    assert names <= there
    for name in names:
        if "completed" in name and file_format != "zarr":
            assert (bucket / "out" / name).read_bytes() == Path("out", name).read_bytes()


@pytest.mark.parametrize("output", ["out", "out.zarr"])
def test_bad_scans_of_an_object_store_are_called_by_their_url(scans, saved, output):
    bucket = UPath(f"memory://bad-scans-for-{output.partition('.')[2] or 'files'}")
    for name in ("good.npy", "cut.npy"):
        (bucket / name).write_bytes(Path("scans/0.npy").read_bytes()[: 300 if name < "d" else None])
    report = complete_files([str(bucket)], saved, output)
    assert len(report.done) == 1
    ((url, reason),) = report.failed.items()
    assert url == str(bucket / "cut.npy")
    assert reason.startswith(f"{url}: expected a readable .npy file, found one that ends")


def test_without_scans_the_output_stays_as_it_was(scans, saved):
    report = complete_files(["nowhere.npy"], saved, "out")
    assert "no such file" in report.failed["nowhere.npy"]
    assert not Path("out").exists()
    complete_files(["nowhere.npy", "scans/0.npy"], saved, "out")
    (row,) = [json.loads(line) for line in Path("out/errors.jsonl").read_text().splitlines()]
    assert row == {
        "file": "nowhere.npy",
        "reason": "nowhere.npy: expected a file, found no such file",
        "fix": "check the path",
    }


def test_what_was_noted_stays_in_the_manifest(scans, saved):
    complete(saved)
    manifest = Path("out", FOLDER, "manifest.jsonl")
    before = {
        row["unit"]: row["scans"] for row in map(json.loads, manifest.read_text().splitlines())
    }
    for number in range(5):
        Path(f"scans/{number}.npy").touch()
    assert complete(saved).done == {}
    after = {
        row["unit"]: row["scans"] for row in map(json.loads, manifest.read_text().splitlines())
    }
    for unit, (scan,) in after.items():
        assert scan["note"] == before[unit][0]["note"] != ""
        assert scan["misfit"] == before[unit][0]["misfit"]
        assert scan["stamp"] != before[unit][0]["stamp"]
