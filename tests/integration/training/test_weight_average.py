"""The running average of the weights: validated, exported, resumed."""

import shutil

import pytest
import torch
from training_runs import ALONE

from stem_complete.inference import load_artifact
from stem_complete.inference.export import export_checkpoint
from stem_complete.models import fold_norms
from stem_complete.training import Checkpoints, build_task, train
from stem_complete.training.checkpoint_folder import load_checkpoint


def checkpoints(config):
    return [load_checkpoint(folder) for folder in sorted(Checkpoints(config.run_folder).folders())]


@pytest.fixture
def averaged(small_config):
    config = small_config(
        "training.weight_average=0.75",
        "training.steps=4",
        "training.checkpoint_every_steps=1",
        "training.keep_checkpoints=4",
        name="averaged",
    )
    return config, train(config, ALONE)


def mean_weights(found, decay):
    """By definition: weights decay^age, normalised."""
    shares = torch.tensor([decay ** (len(found) - 1 - n) for n in range(len(found))])
    shares = shares / shares.sum()
    names = found[0].state["average"]
    states = [checkpoint.state["task"] for checkpoint in found]
    return {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
        for name in names
    }


def test_the_average_is_validated_and_exported_and_leaves_training_alone(
    averaged, small_config, tmp_path
):
    config, result = averaged
    plain = small_config("training.steps=4", name="plain")
    alone = train(plain, ALONE)
    last = checkpoints(config)[-1]
    for name, value in checkpoints(plain)[-1].state["task"].items():
        assert torch.equal(last.state["task"][name], value), name
    assert result.metrics["train/outer_loss"] == alone.metrics["train/outer_loss"]
    assert result.metrics["validation/rmse"] != alone.metrics["validation/rmse"]

    expected = mean_weights(checkpoints(config), 0.75)
    task = build_task(config, (64, 64))
    task.load_state_dict(last.state["task"] | expected)
    exported = load_artifact(
        export_checkpoint(config.run_folder, tmp_path / "model", num_calibration_scans=1)
    )
    ours = fold_norms(task.network.generator).state_dict()
    for name, value in exported.network.state_dict().items():
        torch.testing.assert_close(value, ours[name])


def test_the_average_is_the_weights_own_and_resumes(averaged):
    config, _ = averaged
    found = checkpoints(config)
    for name, value in mean_weights(found, 0.75).items():
        corrected = found[-1].state["average"][name] / (1 - 0.75**4)
        torch.testing.assert_close(corrected, value)
    for checkpoint in found[2:]:
        shutil.rmtree(checkpoint.folder)
    train(config, ALONE)
    again = checkpoints(config)[-1]
    assert again.step == 4
    for name, value in found[-1].state["average"].items():
        assert torch.equal(again.state["average"][name], value), name
