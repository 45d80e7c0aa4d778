"""The loop trains what it does not know: other losses, shapes, metrics, groups, optimizers."""

import math

import pytest
import torch
from tiny_task import Vectors, build_one, build_three, tiny_config

from stem_complete.distributed import WorkerContext
from stem_complete.errors import ConfigError
from stem_complete.training import Checkpoints, StopRequest, load_checkpoint, train
from stem_complete.training.patience import best_after

ALONE = WorkerContext()
BUILDERS = {"one loss": build_one, "three losses": build_three}
OPTIMIZERS = {
    "Adam": (),
    "SGD": ("optimizer.name=SGD", "optimizer.options={momentum: 0.9}"),
    "RMSprop": ("optimizer.name=RMSprop", "training.gradient_clipping={kind: norm, limit: 0.5}"),
    "Adam, ZClip": ("training.gradient_clipping={kind: zclip}",),
    "Adam, AdaGC": ("training.gradient_clipping={kind: adagc}",),
    "Adam, skipped steps": ("training.gradient_clipping={kind: skip}",),
}


class Tape:
    """Keeps curves, and asks for a stop after a step."""

    def __init__(self, stop_after=None):
        self.curves, self.stop, self.stop_after = {}, StopRequest(), stop_after

    def scalars(self, step, values):
        for name, value in values.items():
            self.curves.setdefault(name, {})[step] = value
        if step == self.stop_after:
            self.stop("a test wants it")

    def picture(self, step, name, image):
        raise AssertionError("this task draws none")

    def close(self):
        pass


def run(config, build_task, tape):
    return train(config, ALONE, recorder=tape, stop=tape.stop, build_task=build_task)


def state(config):
    parts = Checkpoints(config.run_folder).latest().state
    return {f"{part}/{name}": value for part in parts for name, value in parts[part].items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("build_task", BUILDERS.values(), ids=BUILDERS)
def test_a_task_is_trained_clipped_and_scored(tmp_path, build_task):
    config, tape = tiny_config(tmp_path), Tape()
    result = run(config, build_task, tape)
    task, _ = build_task(config)
    assert result.finished
    for name in task.loss_names:
        losses = tape.curves[f"train/{name}_loss"]
        assert max(tape.curves[f"train/{name}_clip_fraction"].values()) > 0
        assert tape.curves[f"train/{name}_threshold"].keys() == losses.keys()
    assert tape.curves["train/head_learning_rate"][2] == 0.05
    errors = tape.curves["validation/absolute"]
    assert list(errors) == [6, 12]
    assert errors[12] < errors[6]
    best = Checkpoints(config.run_folder).best()
    assert best.metrics["validation/absolute"] == errors[12]


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer_resumes_to_the_bit(tmp_path, settings):
    whole, stopped = (tiny_config(tmp_path, *settings, name=n) for n in ("whole", "stopped"))
    run(whole, build_three, Tape())
    result = run(stopped, build_three, Tape(stop_after=4))
    assert not result.finished
    assert 4 < result.step < 12
    run(stopped, build_three, Tape())
    assert_same(state(whole), state(stopped))


def test_frozen_groups_stay_and_go_on(tmp_path):
    stages = "optimizer.stages=[{start: 0, frozen: [bo*]}, {start: 8, frozen: [head]}]"
    config = tiny_config(tmp_path, stages, "training.keep_checkpoints=3")
    run(config, build_one, Tape())
    folders = sorted(Checkpoints(config.run_folder).folders())
    after4, after8, after12 = (load_checkpoint(folder).state["task"] for folder in folders)
    assert torch.equal(after4["body.weight"], after8["body.weight"])
    assert not torch.equal(after4["head.weight"], after8["head.weight"])
    assert not torch.equal(after8["body.weight"], after12["body.weight"])
    assert torch.equal(after8["head.weight"], after12["head.weight"])


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "SGD"])
def test_rates_that_change_in_every_step_go_on_to_the_bit(tmp_path, name):
    settings = (
        f"optimizer.name={name}",
        *(["optimizer.options={momentum: 0.5}"] if name != "Adam" else []),
        "optimizer.learning_rate=0.01",
        "optimizer.schedule={kind: cosine, period: 5, low: 0.1}",
        "optimizer.beta1_schedule={kind: cyclic, up: 3, ends: 1, turn: 0.5}",
        "training.log_every_steps=1",
    )
    whole, stopped = (tiny_config(tmp_path, *settings, name=name) for name in ("whole", "stopped"))
    tape = Tape()
    run(whole, build_one, tape)
    assert not run(stopped, build_one, Tape(stop_after=6)).finished
    run(stopped, build_one, Tape())
    assert_same(state(whole), state(stopped))
    rates = list(tape.curves["train/learning_rate"].values())
    assert rates[0] == rates[5] == rates[10] == 0.01 > rates[6] > rates[7]


@pytest.mark.parametrize("log_every", [1, 3])
def test_hard_examples_go_on_to_the_bit(tmp_path, log_every):
    """However often something is logged, and so the host knows losses sooner."""
    hard = "training.hard_examples={kept: 6, probability: 0.5}"
    settings = "training.steps=30", f"training.log_every_steps={log_every}"
    whole, stopped = (tiny_config(tmp_path, hard, *settings, name=n) for n in ("whole", "stopped"))
    tape = Tape()
    run(whole, build_one, tape)
    assert not run(stopped, build_one, Tape(stop_after=12)).finished
    run(stopped, build_one, Tape())
    assert_same(state(whole), state(stopped))
    assert tape.curves["train/hard_threshold"][30] != tape.curves["train/hard_threshold"][15]
    plain = tiny_config(tmp_path, *settings, name="plain")
    run(plain, build_one, Tape())
    assert not torch.equal(state(plain)["task/head.weight"], state(whole)["task/head.weight"])
    other = tiny_config(tmp_path, hard, "training.steps=30", name="other")
    run(other, build_one, Tape())
    assert_same(state(whole), state(other))


class TestPatience:
    """Runs whose rate is 0 after four steps, and so their gain."""

    def config(self, folder, *overrides, name="run"):
        return tiny_config(
            folder,
            "training.steps=20",
            "training.validate_every_steps=2",
            "training.patience=2",
            "optimizer.schedule={kind: linear, points: [[0, 1], [4, 0]]}",
            *overrides,
            name=name,
        )

    def test_ends_a_run_that_gets_no_better(self, tmp_path):
        config = self.config(tmp_path)
        tape = Tape()
        result = run(config, build_one, tape)
        scores = tape.curves["validation/absolute"]
        assert list(scores) == [2, 4, 6, 8]
        assert scores[2] > scores[4] == scores[6] == scores[8]
        assert (result.step, result.finished, result.cause) == (8, True, "patience")
        best = f"validation/absolute was best at step 4 ({scores[4]:.4g})"
        assert result.words == f"{best}, and training.patience=2 is over"
        assert (latest := Checkpoints(config.run_folder).latest()).step == 8
        assert latest.best == (scores[4], 4, 2)
        assert Checkpoints(config.run_folder).best().step == 4
        assert run(config, build_one, Tape()) == result  # nothing is left to do

    def test_counts_over_a_resumption(self, tmp_path):
        """From a checkpoint between two validations, which was none of the usual ones."""
        each = "training.log_every_steps=1"
        whole, stopped = (self.config(tmp_path, each, name=name) for name in ("whole", "stopped"))
        run(whole, build_one, Tape())
        begun = run(stopped, build_one, Tape(stop_after=6))
        assert (begun.step, begun.finished) == (7, False)
        assert run(stopped, build_one, Tape()).step == 8
        assert_same(state(whole), state(stopped))

    @pytest.mark.parametrize(("patience", "end"), [(4, 12), ("null", 20)])
    def test_can_be_raised_afterwards(self, tmp_path, patience, end):
        run(self.config(tmp_path), build_one, Tape())
        more = self.config(tmp_path, f"training.patience={patience}")
        assert run(more, build_one, Tape()).step == end

    def test_needs_validation(self, tmp_path, monkeypatch):
        indices = Vectors.indices
        monkeypatch.setattr(
            Vectors, "indices", lambda self, split: indices(self, split)[: -8 * (split[0] == "v")]
        )
        with pytest.raises(ConfigError, match="validation examples, as training"):
            run(self.config(tmp_path), build_one, Tape())


def test_scores_that_are_not_finite_are_never_the_best():
    best = None
    for step, score in enumerate((math.nan, 2.0, math.inf, math.nan, 1.0, 1.0), 1):
        best = best_after(best, score, step)
    assert best == (1.0, 5, 1)


def test_a_schedule_of_beta1_needs_one(tmp_path):
    config = tiny_config(
        tmp_path, "optimizer.name=SGD", "optimizer.beta1_schedule={kind: cosine, low: 0.9}"
    )
    with pytest.raises(ConfigError, match=r"beta1 or a momentum.*found SGD without"):
        run(config, build_one, Tape())


def test_a_run_cannot_go_on_with_another_optimizer(tmp_path):
    run(tiny_config(tmp_path), build_one, Tape(stop_after=2))
    with pytest.raises(ConfigError, match=r"optimizer.name = Adam.*found SGD"):
        run(tiny_config(tmp_path, "optimizer.name=SGD"), build_one, Tape())
