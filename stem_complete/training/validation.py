"""Validation during training: the same examples, seen the same way, every time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.data.examples import Examples
from stem_complete.distributed import WorkerContext, all_reduce_sum
from stem_complete.training.task import Task


class Validation(NamedTuple):
    """How well a task does validation examples.

    Attributes:
        metrics: Means over all examples, by `validation/<name>`.
        pictures: Of the first examples, greyscale [h, w], by name; rank 0 only.
    """

    metrics: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]]


class Validator:
    """Measures a task on the first examples of the validation split, shared out over workers.

    Args:
        examples: Of all splits.
        context: This worker.
        num_examples: At most so many are used.
        num_pictures: At most so many of these are drawn; only rank 0's are.
    """

    def __init__(
        self, examples: Examples, context: WorkerContext, *, num_examples: int, num_pictures: int
    ) -> None:
        self.examples, self.context = examples, context
        self.indices = examples.indices("validation")[:num_examples]
        self.num_pictures = num_pictures

    @torch.no_grad()
    def __call__(self, task: Task) -> Validation:
        """Metrics over all workers' examples; empty where there is no validation split."""
        if not len(self.indices):
            return Validation({}, {})
        was_training = task.training
        task.eval()
        sums = torch.zeros(len(task.metric_names) + 1, dtype=torch.float64)
        pictures = {}
        for position in range(self.context.rank, len(self.indices), self.context.world_size):
            values, picture = self._measure(task, position)
            sums += values
            if picture is not None and position < self.num_pictures and self.context.is_main:
                pictures[f"validation-{position}"] = picture
        task.train(was_training)
        *totals, count = all_reduce_sum(sums.to(self.context.device)).tolist()
        means = zip(task.metric_names, totals, strict=True)
        return Validation({f"validation/{name}": total / count for name, total in means}, pictures)

    def _measure(self, task: Task, position: int) -> tuple[Tensor, NDArray[np.uint8] | None]:
        """An example's metrics and a 1, which counts it, [n + 1]; and its picture."""
        examples = torch.from_numpy(self.examples.read(self.indices[position : position + 1]))
        places = torch.tensor([position], device=self.context.device)
        metrics, picture = task.validate(examples.to(self.context.device), places)
        values = [metrics[name].sum() for name in task.metric_names]
        one = torch.ones((), device=self.context.device)
        return torch.stack([*values, one]).double().cpu(), picture
