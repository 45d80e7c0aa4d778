"""Completions as zarr arrays: whole shards, each scan once, whatever happens in between."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zarr

from stem_complete.errors import ConfigError, DataError
from stem_complete.inference import Completer, Outputs
from stem_complete.serving.batch import complete_files, shards
from stem_complete.serving.batch.files import CompletedFiles
from stem_complete.serving.batch.reading import Reader
from stem_complete.serving.batch.shards import CompletionArrays
from stem_complete.serving.batch.worker import Worker
from stem_complete.storage.manifest import FOLDER
from stem_complete.time_limit import OutOfTimeError

ALL = Outputs(error_map=True, self_check=True)


def complete(saved, output="out.zarr", sources=("scans",), outputs=ALL, **options):
    return complete_files(
        list(sources), saved, output, outputs=outputs, scans_in_shard=2, **options
    )


def row_of(path, group, name, row):
    return np.asarray(zarr.open_group(path, mode="r")[group][name][row])


def test_arrays_hold_what_the_completer_gives(scans, saved):
    report = complete(saved)
    assert report.done["scans/2.npy"] == "out.zarr/40x48/1[0]"
    assert report.failed == {}
    root = zarr.open_group("out.zarr", mode="r")
    # No warning of what is no part of the hierarchy.
    assert {name for name, _ in root.members(max_depth=None)} >= {"40x48", "32x36/completion"}
    assert root.attrs["model"] == "tiny"
    for number, (group, row) in enumerate(
        [("40x48", 0), ("40x48", 1), ("40x48", 2), ("32x36", 0), ("32x36", 1)]
    ):
        scan = np.load(f"scans/{number}.npy")
        expected = saved.complete(scan)
        arrays = {name: array[row] for name, array in root[group].arrays()}
        assert np.isfinite(arrays["completion"]).all()
        np.testing.assert_allclose(arrays["error"].shape, expected.error.shape)
        assert arrays["scan"] == str(Path(f"scans/{number}.npy").absolute())
        assert json.loads(arrays["about"].item()) == {"title": f"{number}.npy"}
        assert set(json.loads(arrays["made_from"].item())) == {"scan", "model", "options"}
        assert dict(zip(shards.SELF_CHECK, arrays["self_check"], strict=True))["trust"] <= 1
    array = root["40x48/completion"]
    assert (array.shape, array.chunks, array.shards) == ((3, 40, 48), (1, 40, 48), (2, 40, 48))


def test_the_numbers_are_those_of_files(scans, saved):
    outputs = Outputs(error_map=True)
    complete(saved, outputs=outputs)
    complete(saved, "files", file_format="npy", outputs=outputs)
    for number, row in enumerate(range(3)):
        for name, file in (("completion", "completed"), ("error", "error")):
            expected = np.load(f"files/{number}_{file}.npy")
            np.testing.assert_array_equal(row_of("out.zarr", "40x48", name, row), expected)


def test_a_second_run_does_nothing(scans, saved, digests, monkeypatch):
    complete(saved)
    before = digests("out.zarr")
    monkeypatch.setattr(Worker, "complete", lambda *_: pytest.fail("nothing is to be done"))
    report = complete(saved)
    assert len(report.skipped) == 5
    assert report.done == {}
    assert digests("out.zarr") == before


@pytest.mark.parametrize("num_done", [1, 2])
def test_an_interrupted_run_goes_on_to_the_same_bytes(scans, saved, digests, monkeypatch, num_done):
    complete(saved, "undisturbed.zarr")
    work, done = Worker.complete, []

    def interrupted(self, parcel):
        if len(done) == num_done:
            raise KeyboardInterrupt
        done.append(parcel)
        return work(self, parcel)

    monkeypatch.setattr(Worker, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        complete(saved)
    monkeypatch.setattr(Worker, "complete", work)
    report = complete(saved)
    assert len(report.skipped) == sum(len(unit.scans) for (unit,) in done)
    assert len(report.done) + len(report.skipped) == 5
    assert digests("out.zarr") == digests("undisturbed.zarr")


@pytest.mark.parametrize("torn", ["forgotten", "cut", "without its last newline"])
def test_what_the_manifest_does_not_say_is_done_again_to_the_same_bytes(
    scans, saved, digests, torn
):
    complete(saved)
    before = digests("out.zarr")
    manifest = Path("out.zarr", FOLDER, "manifest.jsonl")
    content = manifest.read_bytes()
    kept = {"forgotten": b"", "cut": content[:-20], "without its last newline": content[:-1]}[torn]
    manifest.write_bytes(kept)
    report = complete(saved)
    assert len(report.done) == {"forgotten": 5, "cut": 1, "without its last newline": 0}[torn]
    assert digests("out.zarr") == before
    assert all(json.loads(line) for line in manifest.read_bytes().splitlines())
    assert complete(saved).done == {}


def test_added_scans_are_appended_and_cost_only_themselves(scans, saved, scan_of):
    complete(saved)
    before = row_of("out.zarr", "40x48", "completion", 2)
    np.save("scans/1a.npy", scan_of(7))  # in the middle of the list
    np.save("scans/9.npy", scan_of(8, (64, 64)))
    report = complete(saved)
    assert set(report.done) == {"scans/1a.npy", "scans/9.npy"}
    np.testing.assert_array_equal(row_of("out.zarr", "40x48", "completion", 2), before)
    scans_of = zarr.open_group("out.zarr", mode="r")["40x48/scan"][:]
    assert [Path(name).stem for name in scans_of] == ["0", "1", "2", "1a"]
    assert complete(saved).done == {}


def test_a_changed_scan_is_done_again_and_said(scans, saved, scan_of):
    complete(saved)
    before = row_of("out.zarr", "40x48", "completion", slice(None))
    np.save("scans/1.npy", scan_of(7))
    report = complete(saved)
    assert list(report.done) == ["scans/1.npy"]
    assert report.notes["scans/1.npy"].startswith("done again, as its scan changed")
    after = row_of("out.zarr", "40x48", "completion", slice(None))
    assert [bool((a != b).any()) for a, b in zip(before, after, strict=True)] == [
        False, True, False
    ]  # fmt: skip


def test_a_scan_of_another_shape_moves(scans, saved, scan_of):
    complete(saved)
    np.save("scans/0.npy", scan_of(0, (64, 64)))
    assert list(complete(saved).done) == ["scans/0.npy"]
    assert np.isnan(row_of("out.zarr", "40x48", "completion", 0)).all()
    assert np.isfinite(row_of("out.zarr", "64x64", "completion", 0)).all()


def test_touched_and_moved_scans_are_not_done_again(scans, saved, digests):
    complete(saved)
    before = digests("out.zarr")
    Path("scans/0.npy").touch()
    Path("scans/1.npy").rename("scans/5.npy")
    report = complete(saved)
    assert report.done == {}
    assert set(report.skipped) >= {"scans/0.npy", "scans/5.npy"}
    assert digests("out.zarr") == before


def test_a_removed_scan_stays(scans, saved, digests):
    complete(saved)
    before = digests("out.zarr")
    Path("scans/0.npy").unlink()
    assert complete(saved).done == {}
    assert digests("out.zarr") == before


def test_a_damaged_shard_is_done_again(scans, saved, digests):
    complete(saved)
    before = digests("out.zarr")
    shard = Path("out.zarr/40x48/completion/c/0/0/0")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert len(complete(saved).done) == 2
    assert digests("out.zarr") == before


def test_bad_scans_leave_the_others_alone_and_are_listed(scans, saved, scan_of):
    Path("scans/1.npy").write_bytes(b"nothing of value")
    np.save("scans/2.npy", np.full((40, 48), np.nan))
    report = complete(saved)
    assert set(report.failed) == {"scans/1.npy", "scans/2.npy"}
    assert len(report.done) == 3
    rows = [json.loads(line) for line in Path("out.zarr/errors.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rows} == set(report.failed)
    assert all(row["reason"] for row in rows)
    np.save("scans/1.npy", scan_of(1))
    np.save("scans/2.npy", scan_of(2))
    report = complete(saved)
    assert set(report.done) == {"scans/1.npy", "scans/2.npy"}
    assert not Path("out.zarr/errors.jsonl").exists()
    assert complete(saved).done == {}


def test_of_a_shard_that_hangs_only_the_scans_that_do_are_listed(
    scans, saved, digests, monkeypatch
):
    complete(saved, "undisturbed.zarr")
    write, read, tries = CompletionArrays.write, Reader.read, Counter()

    def hanging(self, source):
        tries[str(source)] += 1
        if str(source) == "scans/1.npy":
            raise OutOfTimeError
        return read(self, source)

    def writing(self, unit, *args):
        assert not unit.is_trial
        return write(self, unit, *args)

    monkeypatch.setattr(CompletionArrays, "write", writing)
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", hanging)
        report = complete(saved)
    assert list(report.failed) == ["scans/1.npy"]
    assert "took longer than" in report.failed["scans/1.npy"]
    assert len(report.done) == 4
    # As a shard it hangs twice, by itself twice, and is left out then.
    assert tries["scans/1.npy"] == 4
    (row,) = map(json.loads, Path("out.zarr/errors.jsonl").read_text().splitlines())
    assert row["file"] == "scans/1.npy"
    assert len(complete(saved).done) == 1
    assert digests("out.zarr") == digests("undisturbed.zarr")


def test_another_model_or_option_is_refused_and_overwrites(scans, saved, artifact):
    complete(saved)
    with pytest.raises(ConfigError, match=r"the same options .*add --overwrite"):
        complete(saved, outputs=Outputs())
    with pytest.raises(ConfigError, match=r"\(shard=3\), found those with shard=2;"):
        complete_files(["scans"], saved, "out.zarr", outputs=ALL, scans_in_shard=3)
    card = artifact.card.model_copy(update={"weights_sha256": "another"})
    other = Completer(artifact._replace(card=card), "cpu")
    with pytest.raises(ConfigError, match=r"out\.zarr: expected completions with the same model"):
        complete(other)
    assert complete(saved).done == {}
    report = complete(other, outputs=Outputs(overwrite=True))
    assert len(report.done) == 5
    root = zarr.open_group("out.zarr", mode="r")
    assert root.attrs["model_sha256"] == "another"
    assert "error" not in root["40x48"]


def test_what_is_no_group_of_ours_is_left_alone(scans, saved):
    zarr.create_group("mine.zarr")
    Path("folder.zarr").mkdir()
    Path("folder.zarr/notes.txt").write_text("mine")
    for output in ("mine.zarr", "folder.zarr"):
        with pytest.raises(DataError, match="choose another output"):
            complete(saved, output)
    with pytest.raises(ConfigError, match="previews"):
        complete(saved, outputs=Outputs(png=True))
    with pytest.raises(ConfigError, match="goes with npy"):
        complete(saved, file_format="npy")


def test_stacks_become_rows(scans, saved, scan_of, digests):
    np.save("stack.npy", np.stack([scan_of(number) for number in range(3)]))
    report = complete(saved, sources=["stack.npy"])
    assert set(report.done) == {f"stack.npy[{number}]" for number in range(3)}
    before = digests("out.zarr")
    assert complete(saved, sources=["stack.npy"]).done == {}
    changed = np.load("stack.npy")
    changed[1] += 1
    np.save("stack.npy", changed)
    # Which of them changed is not known without a hash of each.
    assert len(complete(saved, sources=["stack.npy"]).done) == 3
    assert digests("out.zarr") != before


class TestFromArrays:
    @pytest.fixture
    def source(self, scans, scan_of):
        scans_ = np.stack([scan_of(number) for number in range(5)])
        zarr.create_array("scans.zarr", data=scans_, chunks=(1, 40, 48))
        return "scans.zarr"

    def test_each_scan_is_one_of_the_other(self, source, saved, scan_of):
        report = complete(saved, sources=[source])
        assert report.done["scans.zarr[4]"] == "out.zarr/40x48/2[0]"
        complete(saved, "files", sources=[source], outputs=Outputs(self_check=True))
        assert Path("files/scans-000004_completed.tif").exists()
        assert complete(saved, sources=[source]).done == {}

    def test_a_changed_one_is_done_again(self, source, saved):
        complete(saved, sources=[source])
        array = zarr.open_array(source, mode="r+")
        array[3] = array[3] + 1
        assert list(complete(saved, sources=[source]).done) == ["scans.zarr[3]"]

    @pytest.mark.parametrize("kind", ["array", "attribute"])
    def test_another_dwell_map_makes_other_completions(self, scan_of, scans, saved, kind):
        dwell = np.isfinite(scan_of(0)).astype(np.float32)
        group = zarr.open_group("group.zarr", mode="w")
        group.create_array("scans", data=np.stack([scan_of(0), scan_of(1)]))
        for times in (dwell, dwell / 2):
            if kind == "array":
                group.create_array("dwell", data=times, overwrite=True)
            else:
                group.attrs["dwell"] = times.tolist()
            report = complete(saved, sources=["group.zarr"])
            assert len(report.done) == 2
            assert complete(saved, sources=["group.zarr"]).done == {}
        assert "its dwell map changed" in report.notes["group.zarr[0]"]

    def test_grown_ones_are_appended(self, source, saved, scan_of):
        complete(saved, sources=[source])
        array = zarr.open_array(source, mode="r+")
        array.append(scan_of(9)[None])
        assert list(complete(saved, sources=[source]).done) == ["scans.zarr[5]"]

    def test_completions_in_a_folder_of_scans_are_no_scans(self, source, saved):
        complete(saved, "scans/out.zarr", sources=[source])
        report = complete(saved, "files", sources=["scans"], outputs=Outputs())
        assert len(report.done) == 5
        assert not report.failed


def test_the_worst_are_drawn(scans, saved, scan_of, monkeypatch):
    monkeypatch.setattr("stem_complete.serving.batch.worst.NUM_WORST", 2)
    complete(saved)
    assert Path("out.zarr/worst_completed.png").stat().st_size > 1000
    complete(saved, "files")
    assert Path("files/worst_completed.png").stat().st_size > 1000


def test_destinations_are_small_enough_to_travel(scans):
    import pickle

    for destination in (shards.CompletionArrays("x", ALL), CompletedFiles("x", ".tif", ALL)):
        assert pickle.loads(pickle.dumps(destination)) == destination


def test_leftovers_of_a_killed_run_are_removed(scans, saved):
    complete(saved)
    claim = Path("out.zarr", FOLDER, "claim.json")
    claim.write_text("{}")
    shutil.copy("out.zarr/zarr.json", "out.zarr/40x48/.unfinished-1-0")
    # A claim that says nothing is one that is just being written, by a process that died.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stem_complete.storage.claim.LAPSE_S", 0.01)
        patch.setattr("stem_complete.storage.claim.SETTLE_S", 0.01)
        complete(saved)
    assert not list(Path("out.zarr").rglob(".unfinished-*"))
