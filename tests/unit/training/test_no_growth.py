"""Training for longer takes no more memory; the long form is `stem-complete benchmark memory`."""

import gc
import sys

import torch

from stem_complete.distributed import WorkerContext
from stem_complete.training import task, train

EARLY = 40
"""The warm-up is over."""


class Count:
    """A recorder that counts what lives after some steps."""

    def __init__(self, steps):
        self.steps, self.tensors, self.blocks = steps, [], []

    def scalars(self, step, values):
        if step in self.steps and "train/outer_loss" in values:
            gc.collect()
            # Of Python's memory: numbers and strings count, which the collector does not know.
            self.blocks.append(sys.getallocatedblocks())
            self.tensors.append(
                sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
            )

    def picture(self, step, name, image):
        pass


def growth(small_config, late):
    """How many more tensors, and blocks of Python's memory, there are after `late` steps."""
    config = small_config(
        f"training.steps={late + 10}",
        "training.batch_size=1",
        "training.log_every_steps=10",
        "training.validate_every_steps=20",
        "training.checkpoint_every_steps=20",
    )
    count = Count({EARLY, late})
    train(config, WorkerContext(), recorder=count)
    return [after - before for before, after in (count.tensors, count.blocks)]


def test_steps_leave_nothing_behind(small_config):
    num_steps = 160
    tensors, blocks = growth(small_config, EARLY + num_steps)
    assert abs(tensors) < num_steps / 10
    assert blocks < 3 * num_steps  # some hundreds at first, and then none


def test_a_tensor_left_behind_is_seen(small_config, monkeypatch):
    forward, kept, num_steps = task.CompletionTask.forward, [], 40

    def forward_and_keep(*arguments):
        output = forward(*arguments)
        kept.append(output.outer.detach())
        return output

    monkeypatch.setattr(task.CompletionTask, "forward", forward_and_keep)
    tensors, _ = growth(small_config, EARLY + num_steps)
    assert tensors > num_steps / 2
