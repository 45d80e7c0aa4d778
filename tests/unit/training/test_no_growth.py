"""Training for longer takes no more memory; the long form is `stem-complete benchmark memory`."""

import gc
import sys
from itertools import pairwise

import pytest
import torch

from stem_complete.distributed import WorkerContext
from stem_complete.training import task, train

EARLY = 40
"""The warm-up is over."""


class Count:
    """A recorder that counts what lives after given steps."""

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


def growth(small_config, num_steps):
    """How many more tensors, and blocks of Python's memory, there are after `num_steps` more.

    The least of three times: what is made once, late, is no growth.
    """
    counted = [EARLY + times * num_steps for times in range(4)]
    config = small_config(
        f"training.steps={counted[-1] + 10}",
        "training.batch_size=1",
        "training.log_every_steps=10",
        "training.validate_every_steps=20",
        "training.checkpoint_every_steps=20",
    )
    count = Count(counted)
    train(config, WorkerContext(), recorder=count)
    return [
        min(after - before for before, after in pairwise(counts))
        for counts in (count.tensors, count.blocks)
    ]


def test_steps_leave_nothing_behind(small_config):
    num_steps = 60
    tensors, blocks = growth(small_config, num_steps)
    assert tensors < num_steps / 10
    assert blocks < num_steps


@pytest.mark.parametrize("kind", ["tensor", "number"])
def test_what_each_step_leaves_behind_is_seen(small_config, monkeypatch, kind):
    forward, kept, num_steps = task.CompletionTask.forward, [], 20

    def forward_and_keep(*arguments):
        output = forward(*arguments)
        loss = output.outer.detach()
        kept.append(loss if kind == "tensor" else [float(loss.sum()), float(loss.mean())])
        return output

    monkeypatch.setattr(task.CompletionTask, "forward", forward_and_keep)
    tensors, blocks = growth(small_config, num_steps)
    assert (tensors if kind == "tensor" else blocks) >= num_steps
