"""The training loop: exact resume, any way to share out the batch, bad steps skipped."""

import math
import shutil

import numpy as np
import pytest
import torch
from training_runs import (
    ALONE,
    Tape,
    assert_close_state,
    assert_same_state,
    latest,
    task_state,
    write_config,
)

from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import WorkerContext
from stem_complete.errors import ConfigError, TrainingError
from stem_complete.storage.paths import StorageError
from stem_complete.training import Checkpoints, StopRequest, load_checkpoint, train
from stem_complete.training.ending import DivergedError
from stem_complete.training.tasks import build_named


def test_a_run_records_curves_pictures_and_checkpoints(small_config):
    config, tape = small_config("training.steps=12", "optimizer.learning_rate=0.003"), Tape()
    result = train(config, ALONE, recorder=tape)
    assert result.step == 12
    for name in (
        "train/outer_loss",
        "train/inner_loss",
        "train/outer_threshold",
        "train/inner_threshold",
        "train/outer_clip_fraction",
        "train/learning_rate",
        "train/trainer_learning_rate",
        "train/beta1",
        "train/examples_per_s",
    ):
        assert list(tape.values[name]) == list(range(1, 13)), name
    losses = tape.values["train/outer_loss"]
    assert losses[12] < losses[1]
    assert list(tape.values["validation/rmse"]) == [3, 6, 9, 12]
    picture = tape.pictures[12, "validation-0"]
    assert picture.shape == (64, 3 * 64)
    assert picture.dtype == np.uint8
    assert picture.std() > 10
    assert result.finished
    checkpoint = latest(config)
    assert checkpoint.step == 12
    assert checkpoint.config == config.model_dump(mode="json")


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(small_config):
    whole, stopped = small_config(name="whole"), small_config(name="stopped")
    tape, tape_before, tape_after = Tape(), Tape(), Tape()
    train(whole, ALONE, recorder=tape)

    class StopError(Exception):
        pass

    def stop_at_4(step, values):
        Tape.scalars(tape_before, step, values)
        if step == 5 and "train/outer_loss" in values:
            raise StopError

    tape_before.scalars = stop_at_4
    with pytest.raises(StopError):
        train(stopped, ALONE, recorder=tape_before)
    assert latest(stopped).step == 4
    train(stopped, ALONE, recorder=tape_after)

    assert_same_state(task_state(whole), task_state(stopped))
    for step in (5, 6):
        assert tape_after.values["train/outer_loss"][step] == tape.values["train/outer_loss"][step]


def test_a_frozen_generator_keeps_its_weights(small_config):
    config = small_config("optimizer.stages=[{start: 0, frozen: [inner_generator]}]")
    train(config, ALONE)
    task, examples = build_named(config)
    task.initialise(examples)
    trained = task_state(config)
    for name, weights in task.network.named_parameters():
        stays = name.startswith("generator.inner.")
        assert torch.equal(weights, trained[f"network.{name}"]) == stays, name


@pytest.mark.parametrize("frozen", ["inner_generator", "outer_generator", "trainer"])
def test_a_group_that_is_frozen_on_the_way_stays_as_it_is_on_both_workers(
    small_config, tmp_path, torchrun, frozen
):
    """All that is trained is the same on all workers, which they check when they log."""
    stages = f"[{{start: 0}}, {{start: 2, frozen: [{frozen}]}}]"
    config = small_config(
        *(f"optimizer.stages={stages}", "scaling.num_workers=2", "training.steps=4"),
        *("training.checkpoint_every_steps=2", "training.log_every_steps=1"),
    )
    torchrun("training", 2, tmp_path, write_config(config, tmp_path / "config.json"))
    newest, before = (load_checkpoint(f) for f in Checkpoints(config.run_folder).folders()[:2])
    task, _ = build_named(config)
    part = {"trainer": "trainer."}.get(frozen, f"generator.{frozen.partition('_')[0]}.")
    for name, _ in task.network.named_parameters():
        weights, earlier = (each.state["task"][f"network.{name}"] for each in (newest, before))
        assert torch.equal(weights, earlier) == name.startswith(part), name


def test_accumulation_equals_the_whole_batch(small_config):
    whole = small_config(name="whole")
    train(whole, ALONE)
    for micro in (1, 2):
        parts = small_config(f"training.micro_batch_size={micro}", name=f"parts{micro}")
        train(parts, ALONE)
        assert_close_state(task_state(whole), task_state(parts))


def test_a_bad_example_skips_the_step_and_is_named(small_config, monkeypatch, caplog):
    read, poisoned = MicrographStore.read, []

    def read_with_nan(self, indices):
        images = read(self, indices)
        if poisoned:
            images[0] = math.nan
            poisoned.append(int(indices[0]))
        return images

    monkeypatch.setattr(MicrographStore, "read", read_with_nan)
    config = small_config("training.max_nonfinite_steps=2", "training.validate_every_steps=100")
    tape = Tape()

    def poison_from_step_4(step, values):
        Tape.scalars(tape, step, values)
        if step == 3:
            poisoned.append(-1)

    tape.scalars = poison_from_step_4
    with pytest.raises(TrainingError, match="2 steps in a row") as error:
        train(config, ALONE, recorder=tape)
    assert f"examples [{poisoned[-1]}]" in str(error.value)
    assert f"examples [{poisoned[1]}]" in caplog.text
    assert tape.values["train/skipped_steps"] == {1: 0, 2: 0, 3: 0, 4: 1}
    assert tape.values["train/nonfinite_examples"][4] == 1
    assert [math.isnan(loss) for loss in tape.values["train/outer_loss"].values()][-2:] == [
        False,
        True,
    ]
    # That of step 4 could be of ruined weights.
    assert [folder.name for folder in Checkpoints(config.run_folder).folders()] == ["step-00000002"]


def test_a_run_that_diverged_goes_on_at_a_lower_rate(small_config):
    """As its error says: the newest checkpoint is from before the weights were ruined."""
    settings = "training.steps=12", "training.checkpoint_every_steps=1"
    few_skipped = "training.max_nonfinite_steps=3"
    train(small_config(*settings, "training.max_minutes=1e-9"), ALONE)
    begun = latest(small_config()).step
    lower = r"a lower rate, such as optimizer.learning_rate=500000, which goes on from before those"
    with pytest.raises(DivergedError, match=lower):
        train(small_config(*settings, few_skipped, "optimizer.learning_rate=1e6"), ALONE)
    # One more step was taken, which led to no finite loss any more.
    assert latest(small_config()).step == begun
    result = train(small_config(*settings, few_skipped), ALONE)
    assert (result.step, result.finished) == (12, True)
    assert math.isfinite(result.metrics["validation/rmse"])


def test_a_bad_last_batch_costs_no_checkpoint_if_validation_is_finite(small_config, monkeypatch):
    read, config = MicrographStore.read, small_config()

    def read_with_nan(self, indices):
        images = read(self, indices)
        if len(indices) == 4 and tape.values and max(tape.values["train/outer_loss"]) == 5:
            images[0] = math.nan
        return images

    monkeypatch.setattr(MicrographStore, "read", read_with_nan)
    tape = Tape()
    assert train(config, ALONE, recorder=tape).finished
    assert tape.values["train/skipped_steps"][6] == 1
    assert latest(config).step == 6


def test_a_run_whose_weights_are_ruined_at_the_end_has_failed(small_config):
    config = small_config("training.steps=3", "optimizer.learning_rate=1e6")
    with pytest.raises(TrainingError, match="2 steps in a row"):
        train(config, ALONE)
    assert latest(config) is None


def test_a_stop_while_steps_are_skipped_leaves_the_checkpoint_before(small_config, caplog):
    config = small_config(
        "training.steps=12", "optimizer.learning_rate=1e6", "training.validate_every_steps=100"
    )
    stop = StopRequest()

    class StopAtStep4(Tape):
        def scalars(self, step, values):
            if step == 4:
                stop("a test wants it")

    assert not train(config, ALONE, recorder=StopAtStep4(), stop=stop).finished
    assert latest(config) is None
    assert "no checkpoint of step 5, as its losses are not finite" in caplog.text


def test_a_run_cannot_go_on_as_another(small_config):
    train(small_config(), ALONE)
    for change, message in (
        ("training.seed=1", "training.seed = 0"),
        ("training.batch_size=8", "training.batch_size = 4"),
        ("model.bias=true", "model.bias = False"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(small_config(change), ALONE)


def test_wrong_world_size_fails_at_start(small_config):
    with pytest.raises(ConfigError, match=r"expected 1 worker\(s\), found 3"):
        train(small_config(), WorkerContext(0, 3))
    elastic = small_config("scaling.num_workers=2", "scaling.min_workers=1")
    with pytest.raises(ConfigError, match=r"expected 1 to 2 workers, found 3"):
        train(elastic, WorkerContext(0, 3))


@pytest.mark.parametrize("arm", ["mse", "huber", "alrc", "alrc+huber"])
def test_all_four_arms_train(small_config, arm):
    config = small_config(
        *([] if "alrc" in arm else ["loss.alrc=null"]),
        f"loss.huber={'huber' in arm}",
        "training.steps=2",
    )
    result = train(config, ALONE)
    assert math.isfinite(result.metrics["validation/rmse"])
    assert ("train/outer_threshold" in result.metrics) == ("alrc" in arm)


def test_a_network_without_moments_or_means_trains(small_config):
    settings = "model.norm=none", "loss.alrc=null", "training.steps=2"
    assert train(small_config(*settings), ALONE).step == 2


def test_bf16_changes_the_convolutions_and_not_the_statistics(small_config):
    results = {}
    for precision in ("float32", "bf16"):
        config = small_config(f"training.precision={precision}", name=precision)
        results[precision] = train(config, ALONE).metrics
        for name, value in task_state(config).items():
            assert value.dtype in (torch.float32, torch.float64, torch.bool), name
    for name in ("train/outer_loss", "train/inner_loss", "validation/rmse"):
        assert results["bf16"][name] == pytest.approx(results["float32"][name], rel=0.05), name
        assert results["bf16"][name] != results["float32"][name], name


def test_the_best_checkpoint_is_kept(small_config):
    config = small_config(
        "training.steps=12", "training.checkpoint_every_steps=12", "training.keep_checkpoints=1"
    )
    tape = Tape()
    train(config, ALONE, recorder=tape)
    scores = tape.values["validation/rmse"]
    best = Checkpoints(config.run_folder).best()
    assert best.step == min(scores, key=scores.get)
    assert latest(config).step == 12


def test_a_run_out_of_time_ends_with_a_checkpoint_and_can_go_on(small_config):
    whole, timed = small_config(name="whole"), small_config(name="timed")
    train(whole, ALONE)
    no_time = small_config("training.max_minutes=1e-9", name="timed")
    for _ in range(2):
        result = train(no_time, ALONE)
        assert result.finished
    assert result.step == latest(timed).step < 6
    train(timed, ALONE)
    assert_same_state(task_state(whole), task_state(timed))


def test_storage_that_cannot_be_written_fails_before_the_first_step(small_config):
    config = small_config()
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "checkpoints").write_text("in the way of the folder")
    tape = Tape()
    with pytest.raises(StorageError, match="checkpoints"):
        train(config, ALONE, recorder=tape)
    assert not tape.values


class TestAStoreThatChanged:
    """Runs stop after some steps, and go on with another store."""

    @pytest.fixture
    def grown(self, small_store, tmp_path):
        """A copy of the store, elsewhere, to which another file was appended."""
        grown = tmp_path / "grown.zarr"
        shutil.copytree(small_store, grown)
        another = sorted(example_micrographs(), key=lambda file: file.stat().st_size)[3]
        ingest([another], grown)
        return grown

    def begun(self, small_config):
        """A run that has taken some of its steps."""
        train(small_config("training.max_minutes=1e-9", name="begun"), ALONE)
        assert latest(small_config(name="begun")).step < 6

    def test_and_grew_has_the_crops_that_the_run_began_with(self, small_config, grown):
        """To the bit, validation too: no new crop is seen, and none changes its split."""
        self.begun(small_config)
        whole, begun = small_config(name="whole"), small_config(f"data.store={grown}", name="begun")
        tapes = Tape(), Tape()
        train(whole, ALONE, recorder=tapes[0])
        train(begun, ALONE, recorder=tapes[1])
        assert_same_state(task_state(whole), task_state(begun))
        rmse = [tape.values["validation/rmse"][6] for tape in tapes]
        assert rmse[0] == rmse[1]
        # What goes on from there still has them alone.
        assert latest(begun).examples == latest(whole).examples
        assert latest(begun).examples.num < len(MicrographStore(grown))

    def test_and_holds_others_is_refused(self, small_config, small_store, grown, tmp_path):
        self.begun(small_config)
        smaller, others = tmp_path / "smaller.zarr", tmp_path / "others.zarr"
        files = sorted(example_micrographs(), key=lambda file: file.stat().st_size)[:3]
        ingest(files[:2], smaller, crop_size=64)
        ingest(files[::-1], others, crop_size=64)
        assert len(MicrographStore(others)) == len(MicrographStore(small_store))
        for store, found in ((smaller, "a store of"), (others, "others")):
            with pytest.raises(ConfigError, match=f"that this run began with.*{found}.*data.store"):
                train(small_config(f"data.store={store}", name="begun"), ALONE)

    def test_is_not_noticed_by_checkpoints_that_do_not_say(self, small_config, grown):
        """As those of earlier versions."""
        self.begun(small_config)
        old = latest(small_config(name="begun"))
        config = small_config(f"data.store={grown}", name="old")
        earlier = Checkpoints(config.run_folder)
        earlier.save(old.step, old.state, config=old.config, metrics=old.metrics, score=None)
        earlier.wait()
        assert train(config, ALONE).step == 6
        assert latest(config).examples.num == len(MicrographStore(grown))
