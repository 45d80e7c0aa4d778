"""Validation during training: the same examples, seen the same way, every time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.examples import Examples
from stem_complete.distributed import WorkerContext, all_reduce_sum
from stem_complete.training.task import Task


class Validation(NamedTuple):
    """How well a task does validation examples.

    Attributes:
        metrics: Means over all examples, by `validation/<name>`; none without examples.
        pictures: Of the first examples, greyscale [h, w], by name; rank 0 only.
    """

    metrics: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]]


@torch.no_grad()
def validate(
    task: Task, examples: Examples, context: WorkerContext, *, num_examples: int, num_pictures: int
) -> Validation:
    """Measures a task on the first examples of the validation split, shared out over workers.

    Args:
        task: In either mode, which is kept.
        examples: Of all splits.
        context: This worker.
        num_examples: At most so many are used.
        num_pictures: At most so many of these are drawn; only rank 0's are.
    """
    indices = examples.indices("validation")[:num_examples]
    if not len(indices):
        return Validation({}, {})
    was_training = task.training
    task.eval()
    sums = torch.zeros(len(task.metric_names), dtype=torch.float64)
    pictures = {}
    mine = np.arange(context.rank, len(indices), context.world_size)
    for positions in _batches(mine, task.validation_batch, num_pictures):
        images = torch.from_numpy(examples.read(indices[positions]))
        places = torch.from_numpy(positions).to(context.device)
        metrics, picture = task.validate(images.to(context.device), places)
        sums += torch.stack([metrics[name].sum() for name in task.metric_names]).double().cpu()
        if picture is not None and positions[0] < num_pictures and context.is_main:
            pictures[f"validation-{positions[0]}"] = picture
    task.train(was_training)
    means = all_reduce_sum(sums.to(context.device)) / len(indices)
    named = zip(task.metric_names, means.tolist(), strict=True)
    return Validation({f"validation/{name}": mean for name, mean in named}, pictures)


def _batches(
    positions: NDArray[np.int64], size: int, num_alone: int
) -> Iterator[NDArray[np.int64]]:
    """Positions, rising, by `size`; those below `num_alone` one by one, as each has a picture."""
    alone = int((positions < num_alone).sum())
    for start in (*range(alone), *range(alone, len(positions), size)):
        yield positions[start : start + (1 if start < alone else size)]
