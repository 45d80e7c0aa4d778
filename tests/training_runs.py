"""What tests of training runs look at: recorded curves, checkpoints, states of the network."""

import json

import torch

from stem_complete.distributed import WorkerContext
from stem_complete.training import Checkpoints

ALONE = WorkerContext()

SMALLEST = (
    "model.sizes={inner_widths: [8, 8], inner_blocks: 1, outer_widths: [8, 8], outer_blocks: 1}"
)
"""Change to a run whose steps matter by their number alone."""


class Tape:
    """A recorder that keeps everything."""

    def __init__(self):
        self.values, self.pictures = {}, {}

    def scalars(self, step, values):
        for name, value in values.items():
            self.values.setdefault(name, {})[step] = value

    def picture(self, step, name, image):
        self.pictures[step, name] = image

    def close(self):
        pass


def latest(config):
    return Checkpoints(config.run_folder).latest()


def task_state(config):
    return latest(config).state["task"]


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name


def assert_close_state(one, other):
    """Adam turns rounding of a gradient near 0 into a whole step, so only norms can be compared."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        scale = max(float(value.float().norm()), 0.1)
        assert float((other[name].float() - value.float()).norm()) < 2e-3 * scale, name


def write_config(config, file):
    file.write_text(json.dumps(config.model_dump(mode="json")))
    return file
