"""Scans in a watched folder are completed once, when they are whole."""

import numpy as np
import pytest
import tifffile

from stem_complete.errors import ConfigError
from stem_complete.inference import Outputs
from stem_complete.serving.batch.in_process import InProcess
from stem_complete.serving.watch import Watch


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("stem_complete.serving.watch.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def folders(tmp_path):
    incoming, completed = tmp_path / "incoming", tmp_path / "completed"
    incoming.mkdir()
    return incoming, completed


@pytest.fixture
def watch(folders, completer, clock):
    def make(**options) -> Watch:
        return Watch(
            folders[0],
            InProcess(completer),
            folders[1],
            settle_s=2.0,
            outputs=Outputs(),
            **options,
        )

    return make


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*_completed.tif"))


def test_a_scan_is_completed_when_it_has_stood_still_and_only_once(
    watch, folders, clock, texture, spiral
):
    incoming, completed = folders
    watching = watch()
    assert watching.look() == []
    intensity, _ = spiral(texture(1))
    content = incoming / "a.npy"
    np.save(content, intensity)
    whole = content.read_bytes()
    content.write_bytes(whole[: len(whole) // 2])  # the instrument is at it
    assert watching.look() == []
    clock[0] = 1.5
    content.write_bytes(whole)
    assert watching.look() == []
    clock[0] = 3.0
    assert watching.look() == []  # it changed 1.5 s ago
    clock[0] = 3.6
    (report,) = watching.look()
    assert list(report.done) == [str(content)]
    assert names(completed) == ["a_completed.tif"]
    clock[0] = 100.0
    assert watching.look() == []


def test_a_changed_scan_is_completed_again_and_a_damaged_one_told_once(
    watch, folders, clock, texture, spiral
):
    incoming, completed = folders
    watching = watch()
    scan = incoming / "a.npy"
    scan.write_bytes(b"\x93NUMPY, and then nothing")
    watching.look()
    clock[0] = 5.0
    (report,) = watching.look()
    assert list(report.failed) == [str(scan)]
    clock[0] = 10.0
    assert watching.look() == []
    np.save(scan, spiral(texture(2))[0])
    watching.look()
    clock[0] = 20.0
    (report,) = watching.look()
    assert list(report.done) == [str(scan)]
    assert names(completed) == ["a_completed.tif"]


def test_a_scan_waits_for_its_dwell_map(watch, folders, clock, tmp_path, texture, spiral):
    incoming, completed = folders
    dwells = tmp_path / "dwells"
    dwells.mkdir()
    intensity, dwell = spiral(texture(3))
    watching = watch(dwell=str(dwells))
    tifffile.imwrite(incoming / "a.tif", np.nan_to_num(intensity).astype(np.float32))
    watching.look()
    clock[0] = 50.0
    assert watching.look() == []
    tifffile.imwrite(dwells / "a.tif", dwell)
    watching.look()
    clock[0] = 60.0
    (report,) = watching.look()
    assert report.failed == {}
    assert names(completed) == ["a_completed.tif"]


def test_subfolders_are_kept_and_another_watch_passes_over_what_is_done(
    watch, folders, clock, texture, spiral
):
    incoming, completed = folders
    (incoming / "monday").mkdir()
    np.save(incoming / "monday" / "a.npy", spiral(texture(4))[0])
    first = watch()
    first.look()
    clock[0] = 5.0
    (report,) = first.look()
    image = completed / "monday" / "a_completed.tif"
    written = image.stat().st_mtime_ns
    again = watch()
    again.look()
    clock[0] = 10.0
    (report,) = again.look()
    assert report.done == {}
    assert len(report.skipped) == 1
    assert image.stat().st_mtime_ns == written


def test_the_output_is_another_folder_and_the_folder_is_there(folders, completer):
    pool = InProcess(completer)
    with pytest.raises(ConfigError, match="another folder"):
        Watch(folders[0], pool, folders[0])
    with pytest.raises(ConfigError, match="expected a folder"):
        Watch(folders[1], pool, folders[0])
