"""Checkpoints are whole or not there, whatever ends the process or happens to the files."""

import errno
import itertools
import json
import math
import threading
from contextlib import closing

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from stem_complete.errors import ArtifactError
from stem_complete.storage import paths
from stem_complete.storage.paths import StorageError, storage_path
from stem_complete.training import checkpoint as checkpoint_module
from stem_complete.training.checkpoint import Checkpoints
from stem_complete.training.checkpoint_folder import (
    DamagedCheckpointError,
    load_checkpoint,
    read_metadata,
)

FILES = ("task.safetensors", "optimizer.safetensors", "metadata.json")
unique = itertools.count()


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path):
    """A run's folder on a disk and on something that knows no rename."""
    return storage_path(tmp_path if request.param == "local" else f"memory://run-{next(unique)}")


def state_of(step):
    return {
        "task": {
            "w": torch.full((2, 3, 2, 2), float(step)).to(memory_format=torch.channels_last),
            "frozen": torch.tensor(step % 2 == 0),
        },
        "optimizer": {"w.step": torch.tensor(float(step)), "count": torch.tensor(step)},
    }


def save(checkpoints, step, score=None, metrics=None):
    checkpoints.save(step, state_of(step), config={"name": "x"}, metrics=metrics or {}, score=score)
    checkpoints.wait()
    return checkpoints.folder / f"step-{step:08d}"


def steps(checkpoints):
    return [int(folder.name.removeprefix("step-")) for folder in checkpoints.folders()]


def assert_is(checkpoint, step):
    """The whole state of `step`, not a mixture."""
    assert checkpoint.step == step
    assert checkpoint.folder.name == f"step-{step:08d}"
    for part, tensors in state_of(step).items():
        assert checkpoint.state[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            found = checkpoint.state[part][name]
            assert found.is_contiguous()
            assert torch.equal(found, tensor)
            assert found.dtype == tensor.dtype


def test_round_trip(run):
    checkpoints = Checkpoints(run)
    metrics = {"loss": 0.1 + 0.2, "rmse": math.inf, "µ": 1e-300}
    folder = save(checkpoints, 7, score=0.25, metrics=metrics)
    for checkpoint in (load_checkpoint(folder), Checkpoints(run).latest(), checkpoints.best()):
        assert_is(checkpoint, 7)
        assert checkpoint.config == {"name": "x"}
        assert checkpoint.metrics == metrics
    assert sorted(path.name for path in paths.list_folder(folder)) == sorted(FILES)
    assert read_metadata(folder)["score"] == 0.25


def test_anyone_can_read_the_weights(tmp_path):
    folder = save(Checkpoints(tmp_path), 3)
    assert torch.equal(load_file(folder / "task.safetensors")["w"], state_of(3)["task"]["w"])


def test_a_run_without_checkpoints_has_none(run):
    checkpoints = Checkpoints(run)
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    assert checkpoints.folders() == []


class TestWritingBesideTraining:
    @pytest.fixture
    def gate(self, monkeypatch):
        """Writes wait until it is set."""
        gate, write = threading.Event(), checkpoint_module.write_checkpoint

        def wait_and_write(*args):
            assert gate.wait(60)
            write(*args)

        monkeypatch.setattr(checkpoint_module, "write_checkpoint", wait_and_write)
        return gate

    def test_the_state_may_change_while_it_is_written(self, run, gate):
        checkpoints, state = Checkpoints(run), state_of(1)
        checkpoints.save(1, state, config={"name": "x"}, metrics={}, score=None)
        assert checkpoints.folders() == []  # `save` is back before anything is written
        for tensor in (*state["task"].values(), *state["optimizer"].values()):
            tensor.zero_()
        gate.set()
        checkpoints.wait()
        assert_is(checkpoints.latest(), 1)

    def test_the_next_save_waits_for_the_last(self, run, gate):
        checkpoints = Checkpoints(run)
        first = state_of(1)
        checkpoints.save(1, first, config={"name": "x"}, metrics={}, score=None)
        second = threading.Thread(target=save, args=(checkpoints, 2))
        second.start()
        second.join(0.05)
        assert second.is_alive()
        gate.set()
        second.join()
        for folder, step in zip(checkpoints.folders(), (2, 1), strict=True):
            assert_is(load_checkpoint(folder), step)

    def test_reading_waits_for_the_write(self, run, gate):
        checkpoints = Checkpoints(run)
        checkpoints.save(1, state_of(1), config={}, metrics={}, score=0.5)
        threading.Timer(0.05, gate.set).start()
        assert checkpoints.latest().step == 1

    def test_close_writes_what_is_under_way(self, run, gate):
        with closing(Checkpoints(run)) as checkpoints:
            checkpoints.save(1, state_of(1), config={}, metrics={}, score=None)
            gate.set()
        assert steps(checkpoints) == [1]


def test_host_memory_is_used_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    before = dict(checkpoints._copies)
    save(checkpoints, 2)
    assert all(checkpoints._copies[part] is copy for part, copy in before.items())
    grown = state_of(3)
    grown["optimizer"]["new"] = torch.zeros(3)
    checkpoints.save(3, grown, config={}, metrics={}, score=None)
    assert checkpoints.latest().state["optimizer"].keys() == grown["optimizer"].keys()


def test_a_step_is_saved_once(run):
    checkpoints = Checkpoints(run)
    save(checkpoints, 1, metrics={"loss": 1.0})
    save(checkpoints, 1, metrics={"loss": 2.0})
    assert checkpoints.latest().metrics == {"loss": 1.0}


class TestKept:
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.none() | st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan]), max_size=6),
        st.integers(1, 3),
        st.integers(0, 2),
    )
    def test_the_last_and_the_best(self, scores, keep, keep_best):
        run = f"memory://run-{next(unique)}"
        checkpoints = Checkpoints(run, keep=keep, keep_best=keep_best)
        kept_for_score = []
        for step, score in enumerate(scores, start=1):
            if score is not None and checkpoints.is_best(score):
                kept_for_score.append(step)
            save(checkpoints, step, score)

        numbered = list(enumerate(scores, start=1))
        last = [step for step, _ in numbered][-keep:]
        ranked = sorted(
            (score, step) for step, score in numbered if score is not None and not math.isnan(score)
        )
        best = [score for score, _ in ranked[:keep_best]]
        found = steps(checkpoints)
        assert set(last) <= set(found)
        assert len(found) <= keep + keep_best
        kept = sorted(s for step in found if (s := scores[step - 1]) is not None and s == s)
        assert kept[:keep_best] == best
        # Who asks before saving learns what will be kept, and may pass over the rest.
        assert set(found) - set(last) <= set(kept_for_score)
        chosen = Checkpoints(run).best()
        assert [scores[chosen.step - 1]] == kept[:1] if chosen else not kept

    def test_a_new_process_knows_the_scores(self, run):
        save(Checkpoints(run), 1, score=0.2)
        resumed = Checkpoints(run)
        assert not resumed.is_best(0.2)
        assert resumed.is_best(0.1)
        assert not resumed.is_best(math.nan)

    def test_a_damaged_one_is_no_longer_the_best(self, run, caplog):
        checkpoints = Checkpoints(run, keep=1)
        for step, score in ((1, 0.1), (2, 0.2)):
            folder = save(checkpoints, step, score)
        (checkpoints.folder / "step-00000001" / "task.safetensors").unlink()
        resumed = Checkpoints(run)
        assert resumed.best().folder == folder
        assert not resumed.is_best(0.2)
        assert resumed.is_best(0.15)

    def test_steps_are_ordered_as_numbers(self, run):
        checkpoints = Checkpoints(run)
        for step in (99_999_999, 100_000_000):
            save(checkpoints, step)
        assert steps(checkpoints) == [100_000_000, 99_999_999]

    def test_what_a_crash_left_is_tidied_up(self, run):
        save(Checkpoints(run), 1)
        crashed = save(Checkpoints(run), 2)
        (crashed / "metadata.json").unlink()
        checkpoints = Checkpoints(run)
        assert steps(checkpoints) == [1]
        save(checkpoints, 3)
        assert [path.name for path in paths.list_folder(checkpoints.folder)] == [
            "step-00000001",
            "step-00000003",
        ]

    def test_damaged_ones_do_not_count(self, run, caplog):
        """Those of later steps least of all: they would be the newest for ever."""
        before = Checkpoints(run, keep=9)
        for step in (1, 2, 3, 4):
            save(before, step)
        for step in (3, 4):
            (before.folder / f"step-{step:08d}" / "task.safetensors").write_bytes(b"")
        resumed = Checkpoints(run, keep=2)
        assert resumed.latest().step == 2
        save(resumed, 3)
        assert steps(resumed) == [3, 2]
        assert_is(resumed.latest(), 3)

    def test_whole_ones_of_later_steps_are_left_alone(self, run):
        save(Checkpoints(run), 9)
        earlier = Checkpoints(run, keep=1)
        for step in (1, 2):
            save(earlier, step)
        assert steps(earlier) == [9, 2]


class TestDamage:
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_no_flipped_or_missing_byte_goes_unnoticed(self, data):
        checkpoints = Checkpoints(f"memory://run-{next(unique)}")
        folder = save(checkpoints, 2, score=0.5)
        file = folder / data.draw(st.sampled_from(FILES))
        content = bytearray(file.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans(), label="truncate"):
            file.write_bytes(content[:position])
        else:
            content[position] ^= data.draw(st.integers(1, 255))
            file.write_bytes(content)
        try:
            assert_is(load_checkpoint(folder), 2)  # a space between two keys may be any other
            assert file.name == "metadata.json"
        except DamagedCheckpointError:
            pass

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda folder: (folder / "metadata.json").unlink(), "unfinished one"),
            (lambda folder: (folder / "task.safetensors").unlink(), "no task.safetensors"),
            (lambda folder: (folder / "task.safetensors").write_bytes(b"?"), "bytes long"),
            (lambda folder: (folder / "metadata.json").write_text('{"step": 2,'), "corrupt meta"),
        ],
        ids=["unfinished", "no weights", "truncated", "half metadata"],
    )
    def test_it_is_passed_over_with_a_warning(self, run, caplog, damage, reason):
        checkpoints = Checkpoints(run)
        for step in (1, 2):
            folder = save(checkpoints, step, score=1 / step)
        damage(folder)
        assert_is(checkpoints.latest(), 1)
        (message,) = caplog.messages
        assert "step-00000002" in message
        assert reason in message
        assert message.endswith("step-00000001 is used instead")
        assert_is(checkpoints.best(), 1)

    def test_when_none_is_whole_that_is_said(self, run, caplog):
        checkpoints = Checkpoints(run)
        (save(checkpoints, 1) / "optimizer.safetensors").unlink()
        assert checkpoints.latest() is None
        assert "there is no other" in caplog.text

    def test_other_formats_stop_the_run(self, run):
        """It would begin anew if they were passed over."""
        checkpoints = Checkpoints(run)
        folder = save(checkpoints, 1)
        old = {"format_version": 1, "step": 1, "config": {}, "metrics": {}, "sha256": "of state.pt"}
        (folder / "metadata.json").write_text(json.dumps(old))
        with pytest.raises(ArtifactError, match=r"found format 1; it is too old.*train anew"):
            checkpoints.latest()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stem_complete.training.checkpoint_folder.FORMAT_VERSION", 99)
            save(checkpoints, 2)
        with pytest.raises(ArtifactError, match="found format 99; update stem-complete"):
            checkpoints.latest()


class TestAHeldState:
    def hold(self, checkpoints, step, score=None):
        checkpoints.save(step, state_of(step), config={}, metrics={}, score=score, hold=True)

    def test_is_written_once_a_later_step_was_sound(self, run):
        checkpoints = Checkpoints(run)
        self.hold(checkpoints, 1)
        checkpoints.settle(1, sound=True)  # of which it is the outcome
        assert checkpoints.folders() == []
        for sound in (False, False, True):
            assert checkpoints.latest() is None
            checkpoints.settle(2, sound=sound)
        assert checkpoints.latest().step == 1

    @pytest.mark.parametrize("end", ["wait", "close"])
    def test_is_written_at_the_end_unless_it_is_in_doubt(self, run, end):
        checkpoints = Checkpoints(run)
        self.hold(checkpoints, 1)
        getattr(checkpoints, end)()
        assert checkpoints.latest().step == 1
        self.hold(checkpoints, 2, score=0.1)
        checkpoints.settle(3, sound=False)
        getattr(checkpoints, end)()
        assert checkpoints.latest().step == 1
        assert checkpoints.is_best(0.2)  # what was in doubt was not the best
        save(checkpoints, 4)
        assert [folder.name[-1] for folder in checkpoints.folders()] == ["4", "1"]


class TestFailedWrites:
    @pytest.fixture
    def full_disk(self, monkeypatch):
        def fsync(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(paths.os, "fsync", fsync)

    def test_they_cost_one_checkpoint_and_not_the_run(self, tmp_path, caplog, request):
        checkpoints = Checkpoints(tmp_path)
        save(checkpoints, 1)
        request.getfixturevalue("full_disk")
        checkpoints.save(2, state_of(2), config={}, metrics={}, score=0.1)
        for _ in range(2):
            with pytest.raises(StorageError, match=r"No space left.*make room"):
                checkpoints.wait()
        (message,) = caplog.messages
        assert message.startswith("the checkpoint of step 2 is lost, training goes on")
        assert message.endswith("the newest is " + str(tmp_path / "checkpoints/step-00000001"))
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]

        request.getfixturevalue("monkeypatch").undo()
        assert checkpoints.is_best(0.2)  # what was lost was not the best
        save(checkpoints, 2)  # a step that failed may be saved again
        assert_is(checkpoints.latest(), 2)

    def test_of_many_few_are_told_and_then_how_many(self, tmp_path, caplog, request):
        checkpoints = Checkpoints(tmp_path)
        request.getfixturevalue("full_disk")
        for step in range(1, 13):
            checkpoints.save(step, state_of(step), config={}, metrics={}, score=None)
        checkpoints.close()
        request.getfixturevalue("monkeypatch").undo()
        save(checkpoints, 13)
        first, tenth, last = caplog.messages
        assert first.startswith("the checkpoint of step 1 is lost, training goes on")
        assert tenth.startswith("the checkpoint of step 10 is lost (as 9 before it), training")
        assert last == "the checkpoint of step 13 is written; 12 before it were lost"
        save(checkpoints, 14)
        assert len(caplog.messages) == 3

    def test_a_folder_that_cannot_be_written_is_known_at_the_start(self, tmp_path, full_disk):
        with pytest.raises(StorageError, match="make room"):
            Checkpoints(tmp_path).check_writable()
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="Not a directory"):
            Checkpoints(tmp_path / "file").check_writable()

    def test_the_check_leaves_nothing(self, run):
        checkpoints = Checkpoints(run)
        checkpoints.check_writable()
        assert paths.list_folder(checkpoints.folder) == []
        assert [path.name for path in paths.list_folder(run)] in (["checkpoints"], [])
