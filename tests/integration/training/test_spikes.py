"""Losses that ALRC clipped are found again: which example, when, how far above, how it looked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_task import build_three, tiny_config
from training_runs import ALONE, Tape, latest, write_config
from typer.testing import CliRunner

from stem_complete.cli import app
from stem_complete.errors import ArtifactError
from stem_complete.spikes import draw_spikes, spikes_of_run, spikes_table
from stem_complete.training import StopRequest, train
from stem_complete.training.tasks import build_named

LOW = "loss.alrc.num_stddev=0.1", "loss.alrc.decay=[0.5, 0.5]"


def test_each_clipped_loss_is_that_of_its_example_at_its_step(small_config):
    """Seen again from its step and place in the batch, to the digit."""
    config = small_config(*LOW, "training.steps=1", "training.freeze_mean_norm=1")
    train(config, ALONE, recorder=(tape := Tape()))
    spikes = spikes_of_run(config.run_folder)
    fractions = [tape.values[f"train/{name}_clip_fraction"][1] for name in ("outer", "inner")]
    assert len(spikes) == 4 * sum(fractions) > 0

    task, examples = build_named(config)
    task.initialise(examples)
    for spike in spikes:
        image = torch.from_numpy(examples.read([spike.example]))
        output = task(image, spike.step, torch.tensor([spike.position]))
        assert output.losses[spike.name].item() == pytest.approx(spike.loss, rel=1e-5)
        assert spike.loss > spike.threshold == pytest.approx(25 + 0.1 * 275**0.5, rel=1e-5)
        assert spike.loss <= tape.values[f"train/{spike.name}_largest_loss"][1]
    ratios = [spike.ratio for spike in spikes]
    assert ratios == sorted(ratios, reverse=True)


def test_a_run_that_goes_on_has_the_spikes_of_a_whole_one(tmp_path):
    whole, stopped = (
        tiny_config(tmp_path, "training.log_every_steps=5", name=name) for name in ("whole", "part")
    )
    stop = StopRequest()

    class StopAtStep5(Tape):
        def scalars(self, step, values):
            if step == 5:
                stop("a test wants it")

    train(whole, ALONE, build_task=build_three)
    train(stopped, ALONE, build_task=build_three, recorder=StopAtStep5(), stop=stop)
    assert 5 < latest(stopped).step < 12
    train(stopped, ALONE, build_task=build_three)
    spikes = latest(whole).spikes
    assert latest(stopped).spikes == spikes
    assert {spike.name for spike in spikes} >= {"squared", "absolute"}
    assert len({(spike.step, spike.position, spike.name) for spike in spikes}) == len(spikes)


def test_two_workers_find_the_spikes_of_one(small_config, torchrun, tmp_path):
    alone = small_config(*LOW, name="alone")
    together = small_config(*LOW, "scaling.num_workers=2", name="together")
    train(alone, ALONE)
    torchrun("training", 2, tmp_path, write_config(together, tmp_path / "config.json"))
    found, expected = (latest(config).spikes for config in (together, alone))
    places = [sorted(spike[:4] for spike in spikes) for spikes in (found, expected)]
    assert places[0] == places[1]
    assert len(places[0]) > 1


def test_inspect_lists_and_draws_them(small_config, tmp_path):
    config = small_config(*LOW, "training.steps=2")
    train(config, ALONE)
    picture = tmp_path / "clipped.png"
    call = ["inspect", str(config.run_folder), "--spikes", "--picture", str(picture)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    spikes = spikes_of_run(config.run_folder)
    assert spikes_table(spikes) in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")

    task, examples = build_named(config)
    task.load_state_dict(latest(config).state["task"])
    task.eval()
    spike = spikes[0]
    image = torch.from_numpy(examples.read([spike.example]))
    with torch.no_grad():
        drawn = task.picture(image, spike.step, torch.tensor([spike.position]))
        truth = task.simulator(image, spike.step, torch.tensor([spike.position])).truth
    assert drawn.shape == (64, 3 * 64)
    shown = drawn[:, 128:] / 127.5 - 1
    np.testing.assert_allclose(shown, truth[0, 0].clamp(-1, 1), atol=0.5 / 127.5 + 1e-6)


def test_what_cannot_be_drawn_is_said(small_config, tmp_path):
    with pytest.raises(ArtifactError, match="a run with checkpoints"):
        spikes_of_run(tmp_path)
    config = small_config("loss.alrc=null", "training.steps=1")
    train(config, ALONE)
    assert spikes_table(spikes_of_run(config.run_folder)) == "no loss was clipped"
    with pytest.raises(ArtifactError, match="losses that were clipped, found none"):
        draw_spikes(config.run_folder, tmp_path / "a.png")
