"""Training for longer takes no more memory."""

import gc
import sys
from itertools import pairwise

import pytest
import torch

from stem_complete.distributed import WorkerContext
from stem_complete.training import CompletionTask, train

EARLY = 40
"""The warm-up is over."""

NUM_STEPS = 20
"""As many as there are from one validation, and checkpoint, to the next."""

# Python keeps 4096 names by which attributes were looked up; torch makes new ones for each tensor.
forget_names = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache


class Count:
    """A recorder that counts what lives after given steps."""

    def __init__(self, steps):
        self.steps, self.tensors, self.blocks = steps, [], []

    def scalars(self, step, values):
        if step in self.steps and "train/outer_loss" in values:
            gc.collect()
            forget_names()
            # Of Python's memory: numbers and strings count, which the collector does not know.
            self.blocks.append(sys.getallocatedblocks())
            self.tensors.append(
                sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
            )

    def picture(self, step, name, image):
        pass


def growth(small_config, num_times):
    """How many more tensors, and blocks of Python's memory, there are after `NUM_STEPS` more.

    The least of several times: what is made once, late, is no growth.
    """
    counted = [EARLY + times * NUM_STEPS for times in range(num_times + 1)]
    config = small_config(
        f"training.steps={counted[-1] + 10}",
        "training.batch_size=1",
        "training.log_every_steps=1",
        f"training.validate_every_steps={NUM_STEPS}",
        f"training.checkpoint_every_steps={NUM_STEPS}",
    )
    count = Count(counted)
    train(config, WorkerContext(), recorder=count)
    return [
        min(after - before for before, after in pairwise(counts))
        for counts in (count.tensors, count.blocks)
    ]


def test_steps_leave_nothing_behind(small_config):
    tensors, blocks = growth(small_config, num_times=2)
    assert tensors < NUM_STEPS / 2
    assert blocks < NUM_STEPS / 2


@pytest.mark.parametrize("kind", ["tensor", "number"])
def test_what_each_step_leaves_behind_is_seen(small_config, monkeypatch, kind):
    forward, kept = CompletionTask.forward, []

    def forward_and_keep(*arguments):
        output = forward(*arguments)
        loss = output.losses["outer"].detach()
        kept.append(loss if kind == "tensor" else float(loss.sum()))
        return output

    monkeypatch.setattr(CompletionTask, "forward", forward_and_keep)
    tensors, blocks = growth(small_config, num_times=1)
    assert (tensors if kind == "tensor" else blocks) > NUM_STEPS / 2
