"""A run that begins with the weights of a model."""

from __future__ import annotations

import shutil

import pytest
import torch

from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ArtifactError, ConfigError
from stem_complete.inference import build_artifact, save_artifact
from stem_complete.launch import launch
from stem_complete.scan import encode
from stem_complete.training import build_task
from stem_complete.training.start import TRAINED_LENGTH, weight_norm_layers

BIASED = ("model.preset=any-dose", "model.encoding=waves")


@pytest.fixture
def trained(small_config, tmp_path):
    """A config, a task of it with other weights than it draws, and the folder of its model."""
    config = small_config(*BIASED, "training.seed=3")
    task = build_task(config, (64, 64))
    folder = save_artifact(tmp_path / "model", build_artifact(task.network, config=config))
    return config, task, folder


def completions(task, config):
    images = torch.from_numpy(MicrographStore(config.data.store).read([0, 1]))
    scan = task.validation(images, 0, torch.arange(2)).scan
    with torch.no_grad():
        return task.eval().network.generator(encode(scan, task.encoding).x)


def test_it_completes_as_the_model_does(trained, small_config):
    config, model, folder = trained
    fine_tuned = small_config(*BIASED, "training.seed=4", f"training.start={folder}")
    task = build_task(fine_tuned, (64, 64))
    before = completions(task, config)
    task.initialise(MicrographStore(config.data.store))
    expected = completions(model, config)
    assert (before - expected).abs().max() > 0.1 * expected.abs().max()
    torch.testing.assert_close(completions(task, config), expected, rtol=1e-4, atol=1e-5)
    for _, layer in weight_norm_layers(task.network.generator):
        weights = layer.v.numel() / layer.g.numel()
        length = torch.linalg.vector_norm(layer.v, dim=layer.norm_dims)
        torch.testing.assert_close(length, torch.full_like(length, TRAINED_LENGTH * weights**0.5))


def test_a_run_begins_with_it_and_goes_on_without(trained, small_config):
    _, _, folder = trained
    # A run is named by its own folder, as for `complete`.
    settings = (*BIASED, f"training.start={folder.parent}", "tracking.enabled=false")
    (begun,) = launch(small_config(*settings, "training.steps=1"), local=True)
    assert begun.result.step == 1
    shutil.rmtree(folder)
    (gone_on,) = launch(small_config(*settings, "training.steps=2"), local=True)
    assert gone_on.result.step == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model.encoding=splines",), "encoding"),
        (("model.sizes.gates=0",), "architecture"),
    ],
)
def test_another_network_is_refused_before_training(trained, small_config, changes, message):
    _, _, folder = trained
    config = small_config(*BIASED, *changes, f"training.start={folder}")
    with pytest.raises(ConfigError, match=message):
        launch(config, local=True)


@pytest.mark.parametrize("norm", ["mean", "batch", "layer"])
def test_networks_with_norms_are_refused(trained, small_config, norm):
    _, _, folder = trained
    task = build_task(small_config(f"training.start={folder}", f"model.norm={norm}"), (64, 64))
    with pytest.raises(ConfigError, match="without norms"):
        task.initialise(MicrographStore(small_config().data.store))


def test_a_missing_model_is_refused(small_config, tmp_path):
    with pytest.raises(ArtifactError, match="a model folder"):
        launch(small_config(*BIASED, f"training.start={tmp_path / 'none'}"), local=True)
