"""Tasks other than completion are launched, resumed and tracked like it, and make no model."""

from __future__ import annotations

import numpy as np
import pytest
from training_runs import ALONE, assert_close_state, latest, write_config

from stem_complete.config import load_config
from stem_complete.data.cifar10 import NUM_BYTES
from stem_complete.launch import launch
from stem_complete.tracking import TrackedRuns
from stem_complete.training import Checkpoints, load_checkpoint, train
from stem_complete.training.ending import DivergedError


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        examples = rng.integers(0, 256, (4, NUM_BYTES), np.uint8)
        examples[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(examples.tobytes())
    return folder


def state(config):
    return Checkpoints(config.run_folder).latest().state["task"]


@pytest.mark.parametrize("stop_at", [None, 2])
def test_supersampling(cifar10, tmp_path, uri, stop_at):
    def run(name, steps):
        changes = [f"name={name}", f"storage={tmp_path}", f"data.store={cifar10}"]
        changes += ["training.checkpoint_every_steps=2", "training.validation_examples=2"]
        changes += ["training.log_every_steps=1", f"training.steps={steps}", f"tracking.uri={uri}"]
        (outcome,) = launch(load_config(["supersampling"], changes), local=True)
        return outcome

    if stop_at:
        run("stopped", stop_at)
    outcome, whole = run("stopped", 4), run("whole", 4)
    assert outcome.model is None
    assert not (outcome.config.run_folder / "model").exists()
    for name, value in state(whole.config).items():
        assert value.equal(state(outcome.config)[name]), name
    curves = TrackedRuns(uri, "stem-complete").curves("train/image_loss")
    assert {curve.name for curve in curves} == {"stopped", "whole"}


def test_a_sweep_goes_on_after_a_run_that_diverged(cifar10, tmp_path, uri):
    arms = "{ruined: {optimizer: {learning_rate: 1.0e+9}}, sound: {optimizer: {name: SGD}}}"
    changes = ["name=sweep", f"storage={tmp_path}", f"data.store={cifar10}", f"tracking.uri={uri}"]
    changes += ["training.steps=4", "training.log_every_steps=1", "training.max_nonfinite_steps=2"]
    changes += ["training.validation_examples=1", f"sweep={{arms: {arms}}}"]
    with pytest.raises(DivergedError, match="found 1 that diverged: ruined-seed0"):
        launch(load_config(["supersampling"], changes), local=True)
    ruined, sound = TrackedRuns(uri, "stem-complete").curves("train/image_loss")
    assert (ruined.arm, sound.arm) == ("ruined", "sound")
    assert np.isfinite(ruined.values[0])
    assert np.isnan(ruined.values[-1])
    assert sound.steps[-1] == 4
    assert np.isfinite(sound.values).all()


def test_classification_and_its_frozen_blocks_are_the_same_on_any_number_of_workers(
    cifar10, tmp_path, torchrun
):
    """Batch norm is over the whole batch. A frozen block keeps weights and momentum to the bit."""

    def config(name, *changes):
        frozen = "{start: 2, frozen: [stem, block_128, head]}"
        return load_config(
            ["classification"],
            [
                *(f"name={name}", f"storage={tmp_path}", f"data.store={cifar10}"),
                # With 2 or 4, torch 2.13's gradients of convolutions crash on some processors.
                *("resnet.width=8", "training.batch_size=4", "training.steps=4"),
                *("optimizer.learning_rate=0.01", f"optimizer.stages=[{{start: 0}}, {frozen}]"),
                *("training.checkpoint_every_steps=2", "training.keep_checkpoints=3"),
                *("training.validation_examples=2", "training.log_every_steps=1"),
                *changes,
            ],
        )

    alone, together = config("alone"), config("together", "scaling.num_workers=2")
    train(alone, ALONE)
    torchrun("training", 2, tmp_path, write_config(together, tmp_path / "config.json"))
    assert_close_state(latest(alone).state["task"], latest(together).state["task"])
    for run in (alone, together):
        newest, before = (load_checkpoint(f) for f in Checkpoints(run.run_folder).folders()[:2])
        for part in ("task", "optimizer"):
            after = newest.state[part]
            for name, value in before.state[part].items():
                frozen = any(each in name for each in ("stem", "block_128", "head"))
                is_weight = "running" not in name
                if not name.endswith("_extra_state"):  # whether running statistics stay
                    assert value.equal(after[name]) == (frozen and is_weight), name
