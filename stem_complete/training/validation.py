"""Validation during training: the same examples, seen the same way, every time."""

from __future__ import annotations

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
    for position in range(context.rank, len(indices), context.world_size):
        images = torch.from_numpy(examples.read(indices[position : position + 1]))
        places = torch.tensor([position], device=context.device)
        metrics, picture = task.validate(images.to(context.device), places)
        sums += torch.stack([metrics[name].sum() for name in task.metric_names]).double().cpu()
        if picture is not None and position < num_pictures and context.is_main:
            pictures[f"validation-{position}"] = picture
    task.train(was_training)
    means = all_reduce_sum(sums.to(context.device)) / len(indices)
    named = zip(task.metric_names, means.tolist(), strict=True)
    return Validation({f"validation/{name}": mean for name, mean in named}, pictures)
