"""The loop trains a task that it does not know under torchrun and under Ray, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import workers
from faults import ENVIRONMENT
from tiny_task import build_one, build_three, tiny_config

from stem_complete.distributed import WorkerContext
from stem_complete.training import Checkpoints, train

OPTIMIZER = ("optimizer.name=SGD", "optimizer.options={momentum: 0.5}")
CLIPPED = (
    *OPTIMIZER,
    "training.gradient_clipping={kind: norm, limit: 0.5}",
    "training.hard_examples={kept: 6, probability: 0.5}",
)
EARLY = (  # the rate is 0 from step 6 on, and so is the gain
    "optimizer.schedule={kind: linear, points: [[0, 1], [6, 0]]}",
    "training.patience=1",
    "training.validate_every_steps=3",
)
ONE, TWO = "scaling.num_workers=1", "scaling.num_workers=2"
SPAM = "optimizer.name=SPAM", "optimizer.options={reset_every_steps: 4, warmup_steps: 2}"


def state(config):
    parts = Checkpoints(config.run_folder).latest().state
    return {f"{part}/{name}": value for part in parts for name, value in parts[part].items()}


def metrics(config):
    return Checkpoints(config.run_folder).latest().metrics


def assert_same_run(one, other, *, to_the_bit):
    states = state(one), state(other)
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if to_the_bit:
            assert torch.equal(value, states[1][name]), name
        else:
            torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
    clipped = {k: v for k, v in metrics(one).items() if k.endswith("clip_fraction")}
    assert clipped
    assert clipped == {name: metrics(other)[name] for name in clipped}


def written(config, folder):
    file = folder / f"{config.name}.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    return file


def test_two_processes_train_clip_and_resume_as_one_does(torchrun, tmp_path):
    """The second time they stop half way: what they go on to is the same to the bit.

    All end early, for want of a better validation.
    """
    alone = tiny_config(tmp_path, *CLIPPED, *EARLY, name="alone")
    train(alone, WorkerContext(), build_task=build_three)
    runs = {}
    spam_alone, spam_together = (
        tiny_config(tmp_path, *SPAM, workers, name=f"spam{number}")
        for number, workers in enumerate((ONE, TWO))
    )
    train(spam_alone, WorkerContext(), build_task=build_three)
    for name, stop_after in (("whole", 0), ("stopped", 4)):
        runs[name] = tiny_config(tmp_path, *CLIPPED, *EARLY, TWO, name=name)
        files = [written(config, tmp_path) for config in (runs[name], spam_together)]
        torchrun("tiny", 2, "build_three", stop_after, *files)
    assert_same_run(alone, runs["whole"], to_the_bit=False)
    assert_same_run(runs["whole"], runs["stopped"], to_the_bit=True)
    # SPAM forgets its moments at the same steps, and resumed or not.
    for name, value in state(spam_alone).items():
        torch.testing.assert_close(state(spam_together)[name], value, rtol=1e-3, atol=1e-4)
    ends = {Checkpoints(config.run_folder).latest().step for config in (alone, *runs.values())}
    assert ends == {9}


@pytest.mark.ray
def test_a_worker_of_ray_trains_it_to_the_bit(tmp_path):
    tracking = "tracking.enabled=false"
    alone = tiny_config(tmp_path, *OPTIMIZER, tracking, name="alone")
    on_ray = tiny_config(tmp_path, *OPTIMIZER, tracking, name="ray")
    train(alone, WorkerContext(), build_task=build_one)
    script = Path(workers.__file__).parent / "tiny_on_ray.py"
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script, written(on_ray, tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(alone, on_ray, to_the_bit=True)
