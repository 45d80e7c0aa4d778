"""A task unlike completion: regression of vectors, with one loss or three, in milliseconds."""

import numpy as np
import torch
from torch import nn

from stem_complete.config import load_config
from stem_complete.losses import ALRC
from stem_complete.training import Task, TaskOutput, Validated

SQUARED = {"squared": torch.square}
THREE = SQUARED | {"absolute": torch.abs, "bounded": torch.tanh}


class Vectors:
    """Forty examples [5] in memory: four numbers and what to make of them."""

    def __init__(self):
        inputs = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
        targets = inputs @ np.array([1, -2, 3, 0.5], np.float32)
        self.values = np.concatenate((inputs, targets[:, None]), axis=1)

    def indices(self, split):
        return {"train": np.arange(32), "validation": np.arange(32, 40)}.get(split, np.arange(0))

    def read(self, indices):
        return self.values[indices]

    def __len__(self):
        return 40

    def first(self, count):
        return self

    def fingerprint(self):
        return "vectors"


class Regression(Task):
    """Two layers, a group each; noise on the targets follows from step and position."""

    metric_names = ("absolute",)
    score = "absolute"

    def __init__(self, losses, make_alrc=None):
        self.loss_names = tuple(losses)
        super().__init__(make_alrc)
        self.functions = losses
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 1)

    def errors(self, examples):
        return self.head(self.body(examples[:, :4]).tanh())[:, 0] - examples[:, 4]

    def noise(self, step, positions):
        return 0.1 * torch.sin(positions + 7.0 * step)

    def forward(self, examples, step, positions):
        errors = self.errors(examples) + self.noise(step, positions)
        losses = {name: function(errors).abs() for name, function in self.functions.items()}
        clipped = self.alrc(losses)
        return TaskOutput(torch.stack(list(clipped.values())).sum(0), losses, clipped)

    def validate(self, examples, positions):
        return Validated({"absolute": self.errors(examples).abs()})

    def parameter_groups(self):
        return {"body": list(self.body.parameters()), "head": list(self.head.parameters())}


SPIKE_AT = 120
"""Step that begins when each way of clipping has seen enough of gradients."""


class SpikyRegression(Regression):
    """Without ALRC; in one step the loss of one example, and so of one worker, is far too high."""

    def __init__(self):
        super().__init__(SQUARED)

    def noise(self, step, positions):
        spikes = (positions == 1) & torch.as_tensor(step == SPIKE_AT)
        return super().noise(step, positions) + 300.0 * spikes


def make_alrc():
    return ALRC(1.0, (0.9, 0.9), mu1_start=0.5, mu2_start=0.5, accumulate=True)


def build(make, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return make(), Vectors()


def build_one(config):
    return build(lambda: Regression(SQUARED, make_alrc), config)


def build_three(config):
    return build(lambda: Regression(THREE, make_alrc), config)


def build_spiky(config):
    return build(SpikyRegression, config)


def tiny_config(folder, *overrides, name="tiny"):
    """Twelve steps of four examples."""
    return load_config(
        [],
        [
            f"name={name}",
            f"storage={folder}",
            "data.store=none",
            "training.steps=12",
            "training.batch_size=4",
            "training.log_every_steps=2",
            "training.validate_every_steps=6",
            "training.checkpoint_every_steps=4",
            "optimizer.learning_rate=0.05",
            *overrides,
        ],
    )
