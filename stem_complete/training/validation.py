"""Validation during training: the same scans of the same micrographs every time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.config import Config
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import WorkerContext, all_reduce_sum
from stem_complete.losses import squared_error
from stem_complete.scan import ScanSimulator
from stem_complete.training.completion import CompletionTask
from stem_complete.training.simulation import build_simulator

VALIDATION_SEED = 0
"""Seed of the validation scans' noise: the same for all runs, so that they can be compared."""


class Validation(NamedTuple):
    """How well a network completes validation scans.

    Attributes:
        metrics: `validation/outer_loss`, `validation/inner_loss` (as measured, unclipped) and
            `validation/rmse`, the mean over images of the root mean square error against the
            blurred truth, on [0, 1].
        pictures: Scan, completion and truth side by side, greyscale [h, 3 w], by name; rank 0 only.
    """

    metrics: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]]


class Validator:
    """Measures a task on the first examples of the validation split, shared out over workers.

    Args:
        config: The run.
        store: Its micrographs.
        context: This worker.
    """

    def __init__(self, config: Config, store: MicrographStore, context: WorkerContext) -> None:
        self.store, self.context = store, context
        self.crops = store.indices("validation")[: config.training.validation_examples]
        self.num_pictures = config.training.num_pictures
        self.simulator: ScanSimulator = build_simulator(
            config, (store.crop_size, store.crop_size), augment=False, seed=VALIDATION_SEED
        ).to(context.device)

    @torch.no_grad()
    def __call__(self, task: CompletionTask) -> Validation:
        """Metrics over all workers' examples; empty where the store has no validation split."""
        was_training = task.training
        task.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        pictures = {}
        for position in range(self.context.rank, len(self.crops), self.context.world_size):
            values, picture = self._complete(task, position)
            sums += values
            if position < self.num_pictures and self.context.is_main:
                pictures[f"validation-{position}"] = picture
        task.train(was_training)

        outer, inner, rmse, count = all_reduce_sum(sums.to(self.context.device)).tolist()
        if not count:
            return Validation({}, {})
        metrics = {
            "validation/outer_loss": outer / count,
            "validation/inner_loss": inner / count,
            "validation/rmse": rmse / count,
        }
        return Validation(metrics, pictures)

    def _complete(self, task: CompletionTask, position: int) -> tuple[Tensor, NDArray[np.uint8]]:
        device = self.context.device
        image = torch.from_numpy(self.store.read(self.crops[position : position + 1]))
        batch = self.simulator(image.to(device), 0, torch.tensor([position], device=device))
        completed = task.complete(batch)
        full = completed.full
        outer, inner = task.losses(completed, batch.truth)
        # On [0, 1] errors are half of those on [-1, 1].
        rmse = squared_error(full, batch.truth, 1.0).sqrt() / 2
        values = torch.cat((outer, inner, rmse, torch.ones_like(rmse))).double().cpu()
        panels = (batch.scan.intensity.nan_to_num(-1.0), full, batch.truth)
        grey = (torch.cat(panels, dim=3)[0, 0].clamp(-1, 1) + 1) * 127.5
        return values, grey.round().to(torch.uint8).cpu().numpy()
