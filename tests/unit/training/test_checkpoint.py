"""Checkpoints are whole or not there."""

import json

import pytest
import torch

from stem_complete.errors import ArtifactError
from stem_complete.training.checkpoint import (
    checkpoint_folders,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def save(folder, step, keep=3):
    state = {"task": {"w": torch.full((3,), float(step))}}
    return save_checkpoint(
        folder, step, state, config={"name": "x"}, metrics={"loss": 0.5}, keep=keep
    )


def test_round_trip(tmp_path):
    folder = save(tmp_path, 7)
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.step, checkpoint.config, checkpoint.metrics) == (
        7,
        {"name": "x"},
        {"loss": 0.5},
    )
    assert checkpoint.state["task"]["w"].tolist() == [7.0, 7.0, 7.0]


def test_only_the_last_are_kept(tmp_path):
    for step in (5, 10, 100, 1000):
        save(tmp_path, step, keep=2)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == [
        "step-00001000",
        "step-00000100",
    ]


def test_without_checkpoints_there_is_no_latest(tmp_path):
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no metadata", "half metadata"])
def test_a_damaged_checkpoint_is_passed_over_loudly(tmp_path, damage):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    state = newest / "state.pt"
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:-10])
    elif damage == "flipped":
        state.write_bytes(b"\0" + state.read_bytes()[1:])
    elif damage == "no metadata":
        (newest / "metadata.json").unlink()
    else:
        (newest / "metadata.json").write_text('{"step": 2,')
    with pytest.warns(UserWarning, match="step-00000002.*the one before it is used"):
        found = latest_checkpoint(tmp_path)
    assert found.step == 1


def test_a_writer_that_died_leaves_no_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def die(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-00000001"]


def test_a_newer_format_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | {"format_version": 99}))
    with pytest.raises(ArtifactError, match="format 99; update stem-complete"):
        load_checkpoint(folder)
