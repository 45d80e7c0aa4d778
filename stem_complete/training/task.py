"""What the training loop asks of a task: losses, parameter groups, statistics and a score.

The loop trains anything that answers this; `completion` has the task of this package. A builder
makes a task and its examples from a config, and `loop.train` takes the builder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stem_complete.config import Config
from stem_complete.data.examples import Examples
from stem_complete.losses import ALRC, ClippingLosses

Picture = NDArray[np.uint8]
"""Greyscale [h, w]."""


class TaskOutput(NamedTuple):
    """Losses of a micro-batch.

    Attributes:
        loss: What is back-propagated, [b].
        losses: Each loss as measured, before clipping, [b], by name.
        clipped: Each loss after clipping, [b], by name.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    clipped: dict[str, Tensor]


class Validated(NamedTuple):
    """How well validation examples were done.

    Attributes:
        metrics: Of each example [b], by name; see `Task.metric_names`.
        picture: Of the first example; None if there is nothing to draw.
    """

    metrics: dict[str, Tensor]
    picture: Picture | None = None


class Task(nn.Module, ABC):
    """A network with its losses, as the loop trains it.

    Weights, buffers and the extra state of all submodules are saved in checkpoints. All buffers
    must be the same on every worker: what examples change in them goes through `statistics` and
    `commit`, as in `models.BatchNorm`; torch's own sees one worker alone, and moves at bad steps.

    Examples come as one tensor [b, ...]. Labels travel in it, as in CIFAR-10's files, where an
    example is a byte of label and 3,072 of image.

    Args:
        make_alrc: Makes the ALRC of one loss, with `accumulate=True`; None clips no loss.

    Attributes:
        loss_names: Of the losses; curves are called `train/<name>_loss`. The first says how hard an
            example is, see `training.hard_examples`.
        metric_names: Of what `validate` measures; curves of the means are `validation/<name>`.
        score: The metric that decides which checkpoint is the best; the lowest is.
        validation_batch: Examples that are validated at once, where they are small.
        running: Running statistics that a stage of the schedule can freeze, by name.
        alrc: Clips the losses.
    """

    loss_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    score: str
    validation_batch: int = 1
    running: tuple[str, ...] = ()

    def __init__(self, make_alrc: Callable[[], ALRC] | None = None) -> None:
        super().__init__()
        self.alrc = ClippingLosses(self.loss_names if make_alrc else (), make_alrc or ALRC)

    @abstractmethod
    def forward(self, examples: Tensor, step: int | Tensor, positions: Tensor) -> TaskOutput:
        """Losses of a micro-batch.

        Args:
            examples: As `Examples.read` gives them, [b, ...].
            step: Optimizer step, or that of each example [b]; whatever is random follows from it
                and `positions`.
            positions: Positions of the examples in the global batch, [b].
        """

    @abstractmethod
    def validate(self, examples: Tensor, positions: Tensor) -> Validated:
        """Metrics of validation examples, in evaluation mode and without gradients.

        Args:
            examples: As `Examples.read` gives them, [b, ...].
            positions: Their places in the validation set, [b]; whatever is random follows from
                them, so that every validation is the same.
        """

    def picture(self, examples: Tensor, step: int | Tensor, positions: Tensor) -> Picture | None:
        """The first of `examples` as `forward` sees it; None if there is nothing to draw."""
        del examples, step, positions
        return None

    def initialise(self, examples: Examples) -> None:
        """Sets what depends on data, before the first step of a new run.

        Every worker calls it and must come to the same weights.
        """

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by group; stages of the schedule speak of the groups by name."""
        return {"network": list(self.parameters())}

    def statistics(self) -> dict[str, Tensor]:
        """Float32 sums over this worker's examples since the last `commit`, by name."""
        return self.alrc.statistics()

    def commit(self, sums: dict[str, Tensor], usable: Tensor) -> None:
        """Updates buffers from statistics of all workers.

        Args:
            sums: `statistics()`, summed over all workers.
            usable: Whether all losses and gradients were finite, [].
        """
        del usable  # ALRC leaves losses that are not finite out
        self.alrc.commit(sums)

    def freeze(self, names: frozenset[str]) -> None:
        """Freezes those of `running` that `names` holds and lets the others change."""


TaskBuilder = Callable[[Config], tuple[Task, Examples]]
"""Makes the task that a config describes, on the CPU and with weights drawn from the config's seed,
and opens its examples. Every worker calls it. Raises a StemCompleteError where they do not fit."""


def device_of(task: nn.Module) -> torch.device:
    """Device of the task's weights."""
    return next(task.parameters()).device
