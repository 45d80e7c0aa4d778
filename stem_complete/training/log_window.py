"""What happens between two log entries, kept on the device until it is logged.

From here a metric goes to `loop`, which adds rates, thresholds and validation, and through a
`Recorder` to what `launch.recorders` opened: the journal that `tracking` delivers to MLflow, and a
progress bar, which under Ray lies behind `launch.mailbox`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stem_complete.data.loader import Batch
from stem_complete.training.spikes import Spike, hardest
from stem_complete.training.task import TaskOutput

FINITE, NONFINITE = 0, 1
"""Places of the numbers of examples in `loss_statistics`."""


def loss_statistics(outputs: Sequence[TaskOutput]) -> Tensor:
    """Sums over this worker's examples, [2 + 2 n]: (non-)finite examples, n losses, n clipped."""
    names = list(outputs[0].losses)
    losses = torch.stack(
        [torch.cat([output.losses[name].detach() for output in outputs]) for name in names]
    )
    finite = losses.isfinite().all(0)
    after = torch.stack(
        [torch.cat([output.clipped[name].detach() for output in outputs]) for name in names]
    )
    clipped = (after < losses).sum(1).float()
    counts = torch.stack((finite.sum(), (~finite).sum())).float()
    return torch.cat((counts, torch.where(finite, losses, 0.0).sum(1), clipped))


def losses_of(output: TaskOutput) -> Tensor:
    """Losses of a micro-batch before and after clipping, [2, n, b]."""
    stages = (output.losses, output.clipped)
    return torch.stack([torch.stack(list(stage.values())).detach() for stage in stages])


def mean_loss(sums: Tensor) -> Tensor:
    """Mean over finite examples of the sum of their losses, [], of summed `loss_statistics`."""
    num_losses = (len(sums) - 2) // 2
    mean: Tensor = sums[2 : 2 + num_losses].sum() / sums[FINITE].clamp(min=1)
    return mean


class _Step(NamedTuple):
    """A step of this worker.

    Attributes:
        places: Numbers, steps and positions of its examples, [number of micro-batches, 3, b].
        losses: `losses_of` its micro-batches, [number of micro-batches, 2, n, b].
    """

    places: Tensor
    losses: Tensor


class LogWindow:
    """What happened since the last log entry; stays on the device until then.

    Args:
        loss_names: Of the task.
        device: Where it trains.
    """

    def __init__(self, loss_names: Sequence[str], device: torch.device) -> None:
        self.loss_names = loss_names
        self.losses = torch.zeros(2 + 2 * len(loss_names), dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.steps: list[_Step] = []
        self.started = time.perf_counter()

    def count(self, losses: Tensor, usable: Tensor, taken: Tensor) -> None:
        """Adds what a step leaves on the device, and does not wait for it.

        Args:
            losses: `loss_statistics`, summed over workers.
            usable: Whether losses and gradients are finite, [].
            taken: Whether the step was taken, [].
        """
        self.losses += losses
        self.skipped += ~taken
        self.skipped_in_a_row.copy_(torch.where(usable, 0, self.skipped_in_a_row + 1))

    def add(self, step: int, batches: Sequence[Batch], losses: Tensor) -> None:
        """Adds a step.

        Args:
            step: Steps taken before it.
            batches: This worker's micro-batches.
            losses: `losses_of` each, [number of micro-batches, 2, n, b]; stays on the device.
        """
        places = []
        for batch in batches:
            now = torch.full_like(batch.positions, step)
            steps = now if batch.steps is None else batch.steps
            places.append(torch.stack((batch.indices, steps, batch.positions)))
        self.steps.append(_Step(torch.stack(places), losses))

    def pause(self, seconds: float) -> None:
        """Leaves out time that was not spent on training."""
        self.started += seconds

    def metrics(self, batch_size: int) -> dict[str, float]:
        """Means and counts over the window, `train/...`. Waits for the device.

        Where no loss was finite, their mean is NaN.
        """
        num_finite, num_nonfinite, *sums = self.losses.tolist()
        finite = num_finite or math.nan
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        losses, clipped = sums[: len(self.loss_names)], sums[len(self.loss_names) :]
        return {
            **{f"train/{n}_loss": x / finite for n, x in zip(self.loss_names, losses, strict=True)},
            **{
                f"train/{n}_clip_fraction": x / finite
                for n, x in zip(self.loss_names, clipped, strict=True)
            },
            "train/nonfinite_examples": num_nonfinite,
            "train/skipped_steps": float(self.skipped),
            "train/examples_per_s": len(self.steps) * batch_size / elapsed,
        }

    def nonfinite_examples(self) -> set[int]:
        """Numbers of this worker's examples whose loss was not finite. Waits for the device."""
        found: set[int] = set()
        for places, losses in self.steps:
            bad = ~losses[:, 0].isfinite().all(1).cpu()
            found.update(places[:, 0][bad].tolist())
        return found

    def largest(self) -> list[float]:
        """This worker's largest finite loss of each name, else -inf. Waits for the device."""
        losses = torch.cat([step.losses[:, 0] for step in self.steps])
        return torch.where(losses.isfinite(), losses, -torch.inf).amax((0, 2)).tolist()

    def spikes(self) -> tuple[Spike, ...]:
        """This worker's losses that were clipped hardest. Waits for the device."""
        if not self.steps:
            return ()
        losses = torch.stack([step.losses for step in self.steps]).cpu().numpy()
        places = torch.stack([step.places for step in self.steps]).numpy()
        before, after = losses[:, :, 0], losses[:, :, 1]
        return hardest(
            Spike(
                int(places[step, micro, 1, b]),
                int(places[step, micro, 2, b]),
                int(places[step, micro, 0, b]),
                self.loss_names[name],
                float(before[step, micro, name, b]),
                float(after[step, micro, name, b]),
            )
            for step, micro, name, b in np.argwhere(after < before)
        )

    def restart(self) -> None:
        """Begins the next window."""
        self.losses.zero_()
        self.skipped.zero_()
        self.steps.clear()
        self.started = time.perf_counter()
