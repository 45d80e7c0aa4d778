from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from stem_complete.data.bundled import published_triples
from stem_complete.data.formats.published import read_published_scan
from stem_complete.data.formats.scans import read_scan
from stem_complete.data.scan_options import ScanOptions
from stem_complete.errors import ConfigError, DataError
from stem_complete.inference import (
    Completer,
    Outputs,
    build_artifact,
    complete_scans,
    load_completer,
    write_completion,
)
from stem_complete.inference.image_files import read_info, write_tiff
from stem_complete.serving.batch import complete_files


@pytest.fixture(scope="module")
def completer(model_folder):
    """From disk, as only saved models have a hash to be recognised by."""
    return load_completer(model_folder, "cpu")


@pytest.fixture
def folder(tmp_path, texture, spiral, monkeypatch):
    """`scans/0.tif` to `2.tif` of two shapes with maps in `dwell`, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("scans", "dwell"):
        Path(name).mkdir()
    for number, shape in enumerate([(64, 64), (64, 64), (50, 70)]):
        intensity, dwell = spiral(100 + 10 * texture(number, shape))
        tifffile.imwrite(
            f"scans/{number}.tif",
            np.nan_to_num(intensity).astype(np.float32),
            imagej=True,
            resolution=(20, 20),
            metadata={"unit": "nm"},
        )
        np.save(f"dwell/{number}.npy", dwell)
    return tmp_path


def files_in(folder):
    """What a user sees there: the manifest is hidden."""
    return sorted(path.name for path in Path(folder).iterdir() if path.name[0] != ".")


def test_files_hold_what_arrays_would_give(folder, completer, texture, spiral):
    report = complete_files(
        ["scans"], completer, "out", dwell="dwell", outputs=Outputs(png=True, error_map=True)
    )
    assert report.done == {f"scans/{n}.tif": f"out/{n}_completed.tif" for n in range(3)}
    assert report.skipped == report.failed == report.notes == {}
    assert files_in("out") == sorted(
        f"{n}_{name}" for n in range(3) for name in ("completed.tif", "completed.png", "error.tif")
    )
    intensity, dwell = spiral(100 + 10 * texture(2, (50, 70)))
    expected = completer.complete(intensity, dwell)
    np.testing.assert_allclose(tifffile.imread("out/2_completed.tif"), expected.image, atol=1e-3)
    np.testing.assert_allclose(tifffile.imread("out/2_error.tif"), expected.error, rtol=1e-3)
    with tifffile.TiffFile("out/2_completed.tif") as tiff:
        assert tiff.imagej_metadata["unit"] == "nm"
        numerator, denominator = tiff.pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(20)
        info = json.loads(tiff.imagej_metadata["Info"])
    assert info["model_sha256"] == completer.card.weights_sha256
    assert info["scan"] == "2.tif"


def test_batches_change_nothing(folder, completer):
    complete_files(["scans"], completer, "one", dwell="dwell")
    complete_files(["scans"], completer, "many", dwell="dwell", batch_size=8)
    for n in range(3):
        one, many = (tifffile.imread(f"{out}/{n}_completed.tif") for out in ("one", "many"))
        np.testing.assert_allclose(one, many, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_what_cannot_be_read_is_listed_and_the_rest_is_done(folder, completer, batch_size):
    Path("scans/0.tif").write_bytes(Path("scans/0.tif").read_bytes()[:200])
    Path("scans/3.tif").write_bytes(b"")
    tifffile.imwrite("scans/4.tif", np.ones((20, 20), np.float32) * np.arange(20, dtype=np.float32))
    Path("dwell/2.npy").unlink()
    np.save("dwell/4.npy", np.ones((20, 20), np.float32))
    calls = []
    report = complete_files(
        ["scans"],
        completer,
        "out",
        dwell="dwell",
        batch_size=batch_size,
        progress=lambda *call: calls.append(call),
    )
    assert list(report.done) == ["scans/1.tif"]
    assert set(report.failed) == {f"scans/{n}.tif" for n in (0, 2, 3, 4)}
    assert "dwell/2" in report.failed["scans/2.tif"]
    assert "at least 32 px" in report.failed["scans/4.tif"]
    assert all("\n" not in message for message in report.failed.values())
    assert files_in("out") == ["1_completed.tif", "errors.jsonl"]
    assert calls == [(done, 5) for done in range(1, 6)]


def test_a_pipe_is_not_waited_for(folder, completer):
    os.mkfifo("scans/pipe.tif")
    Path("dwell/1.npy").unlink()
    os.mkfifo("dwell/1.npy")
    report = complete_files(["scans"], completer, "out", dwell="dwell")
    assert set(report.done) == {"scans/0.tif", "scans/2.tif"}
    assert all("found a pipe" in report.failed[f"scans/{n}.tif"] for n in ("pipe", 1))


def test_a_second_run_does_what_is_missing(folder, completer):
    complete_files(["scans"], completer, "out", dwell="dwell", outputs=Outputs(png=True))
    written = {file: file.stat().st_mtime_ns for file in Path("out").glob("[0-9]*")}
    Path("out/1_completed.png").unlink()

    report = complete_files(["scans"], completer, "out", dwell="dwell", outputs=Outputs(png=True))
    assert set(report.skipped) == {"scans/0.tif", "scans/2.tif"}
    assert set(report.done) == {"scans/1.tif"}
    unchanged = {file for file in written if file.stat().st_mtime_ns == written[file]}
    assert {file.name for file in written.keys() - unchanged} == {
        "1_completed.png",
        "1_completed.tif",
    }

    report = complete_files(
        ["scans"], completer, "out", dwell="dwell", outputs=Outputs(overwrite=True)
    )
    assert len(report.done) == 3


def test_images_of_another_model_are_made_again_and_it_is_said(folder, completer, artifact):
    complete_files(["scans/0.tif"], completer, "out", dwell="dwell")
    card = artifact.card.model_copy(update={"weights_sha256": "another"})
    other = Completer(artifact._replace(card=card), "cpu")
    report = complete_files(["scans"], other, "out", dwell="dwell")
    assert list(report.notes.items()) == [("scans/0.tif", "done again, as its model changed")]
    assert len(report.done) == 3


CHANGES = {
    "scan": lambda: tifffile.imwrite("scans/0.tif", 1 + tifffile.imread("scans/0.tif")),
    "dwell map": lambda: np.save("dwell/0.npy", np.sqrt(np.load("dwell/0.npy"))),
}


@pytest.mark.parametrize("part", CHANGES)
def test_what_is_made_from_other_files_of_the_same_name_is_made_again(folder, completer, part):
    complete_files(["scans"], completer, "out", dwell="dwell")
    before = tifffile.imread("out/0_completed.tif")
    CHANGES[part]()
    report = complete_files(["scans"], completer, "out", dwell="dwell")
    assert report.notes == {"scans/0.tif": f"done again, as its {part} changed"}
    assert list(report.skipped) == ["scans/1.tif", "scans/2.tif"]
    assert (tifffile.imread("out/0_completed.tif") != before).any()
    assert len(complete_files(["scans"], completer, "out", dwell="dwell").skipped) == 3


def test_what_is_made_with_other_options_is_made_again(folder, completer):
    complete_files(["scans"], completer, "out", dwell="dwell")
    options = ScanOptions(full_dwell=1.01)
    report = complete_files(["scans"], completer, "out", dwell="dwell", options=options)
    assert set(report.notes.values()) == {"done again, as its options changed"}


def test_images_of_older_versions_are_made_again_and_those_of_others_are_kept(folder, completer):
    image = np.ones((64, 64), np.float32)
    info = {"software": "stem-complete 0.1.0", "model_sha256": completer.card.weights_sha256}
    write_tiff(Path("out_0.tif"), image, None, info)
    report = complete_files(["scans/0.tif"], completer, "out_0.tif", dwell="dwell")
    assert "does not tell what it was made from" in report.notes["scans/0.tif"]
    tifffile.imwrite("mine.tif", image)
    report = complete_files(["scans/0.tif"], completer, "mine.tif", dwell="dwell")
    assert "another image; choose another output folder" in report.failed["scans/0.tif"]
    np.testing.assert_array_equal(tifffile.imread("mine.tif"), image)


def test_a_full_disk_stops_the_batch_and_keeps_what_is_done(folder, completer, monkeypatch):
    write = tifffile.imwrite

    def fill_up(file: Path, *arguments: object, **keywords: object) -> None:
        if "1_completed" in str(file):
            raise OSError(28, "No space left on device")
        write(file, *arguments, **keywords)

    monkeypatch.setattr(tifffile, "imwrite", fill_up)
    with pytest.raises(DataError, match="No space left"):
        complete_files(["scans"], completer, "out", dwell="dwell")
    assert files_in("out") == ["0_completed.tif"]


def test_a_coverage_that_the_model_does_not_know_is_noted(folder, completer, texture, spiral):
    intensity, dwell = spiral(texture(0, (128, 128)), "1/40")
    np.save("sparse.npy", np.nan_to_num(intensity))
    np.save("map.npy", dwell)
    report = complete_files(["sparse.npy"], completer, "out", dwell="map.npy")
    assert "coverage 1/40, but the model was trained at 1/10" in report.notes["sparse.npy"]


class TestPublishedFiles:
    triple = published_triples()[0]

    def test_are_decoded(self, tmp_path, completer):
        folder = self.triple.scan.parent
        report = complete_files(
            [folder / "partial_scan-1.tif"],
            completer,
            tmp_path / "done.tif",
            dwell="mask-{number}.tif",
            published=True,
        )
        assert report.done == {str(self.triple.scan): str(tmp_path / "done.tif")}
        scan = read_published_scan(self.triple.scan, self.triple.dwell)
        expected = completer.complete_scan(scan).image
        np.testing.assert_allclose(tifffile.imread(tmp_path / "done.tif"), expected, atol=1e-3)

    def test_need_their_masks(self, tmp_path, completer):
        with pytest.raises(ConfigError, match="masks of published scans"):
            complete_files([self.triple.scan], completer, tmp_path, published=True)


def test_an_error_map_needs_a_calibrated_model(folder, network, config):
    uncalibrated = Completer(build_artifact(network, config=config), "cpu")
    with pytest.raises(ConfigError, match="calibrated"):
        complete_files(["scans"], uncalibrated, "out", outputs=Outputs(error_map=True))
    assert not Path("out").exists()


def test_no_scans_are_said_to_be_none(folder, completer):
    Path("empty").mkdir()
    report = complete_files(["empty"], completer, "out")
    assert "found none" in report.failed["empty"]


def test_read_complete_and_write_do_what_the_command_does(folder, completer):
    complete_files(["scans"], completer, "out", dwell="dwell", outputs=Outputs(error_map=True))
    scans = (read_scan(f"scans/{n}.tif", f"dwell/{n}.npy") for n in range(3))
    for completed in complete_scans(completer, scans, error_map=True):
        image = Path("own", completed.scan.name).with_suffix(".tif")
        options = {"precision": "float32", "published": False}
        write_completion(completed, image, Outputs(error_map=True), options=options)
    for n in range(3):
        for own, name in ((f"{n}.tif", f"{n}_completed.tif"), (f"{n}_error.tif",) * 2):
            np.testing.assert_array_equal(
                tifffile.imread(f"own/{own}"), tifffile.imread(f"out/{name}")
            )
            info = read_info(Path("out", name))
            assert set(info.pop("made_from")) == {"scan", "dwell map", "model", "options"}
            assert read_info(Path("own", own)) == info
