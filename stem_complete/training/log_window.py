"""What happens between two log entries, kept on the device until it is logged."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from stem_complete.data.loader import Batch
from stem_complete.training.completion import TaskOutput

OUTER, INNER, FINITE, NONFINITE, CLIPPED = 0, 1, 2, 3, slice(4, 6)
"""Places in the loss statistics."""


def loss_statistics(outputs: list[TaskOutput]) -> Tensor:
    """Sums over this worker's examples, [6]: finite losses, counts, clipped (outer, inner)."""
    outer = torch.cat([output.outer.detach() for output in outputs])
    inner = torch.cat([output.inner.detach() for output in outputs])
    finite = outer.isfinite() & inner.isfinite()
    parts = (
        torch.where(finite, outer, 0.0).sum(),
        torch.where(finite, inner, 0.0).sum(),
        finite.sum().float(),
        (~finite).sum().float(),
    )
    clipped = torch.stack([output.num_clipped for output in outputs]).sum(0)
    return torch.cat((torch.stack(parts), clipped))


class Window:
    """What happened since the last log entry; stays on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self.losses = torch.zeros(6, dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.examples: list[tuple[Tensor, Tensor]] = []
        self.num_steps = 0
        self.started = time.perf_counter()

    def count(self, losses: Tensor, usable: Tensor) -> None:
        """Adds what a step leaves on the device, and does not wait for it.

        Args:
            losses: `loss_statistics`, summed over workers.
            usable: Whether the step was taken, [].
        """
        self.losses += losses
        self.skipped += ~usable
        self.skipped_in_a_row.copy_(torch.where(usable, 0, self.skipped_in_a_row + 1))

    def add(self, batches: list[Batch], losses: Tensor) -> None:
        """Adds a step.

        Args:
            batches: This worker's micro-batches.
            losses: Of their examples, [number of micro-batches, b]; stays on the device.
        """
        self.examples += zip((batch.indices for batch in batches), losses, strict=True)
        self.num_steps += 1

    def pause(self, seconds: float) -> None:
        """Leaves out time that was not spent on training."""
        self.started += seconds

    def metrics(self, batch_size: int) -> dict[str, float]:
        """Means and counts over the window, `train/...`. Waits for the device."""
        losses = self.losses.tolist()
        finite = max(losses[FINITE], 1)
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        outer_clipped, inner_clipped = losses[CLIPPED]
        return {
            "train/outer_loss": losses[OUTER] / finite,
            "train/inner_loss": losses[INNER] / finite,
            "train/outer_clip_fraction": outer_clipped / finite,
            "train/inner_clip_fraction": inner_clipped / finite,
            "train/nonfinite_examples": losses[NONFINITE],
            "train/skipped_steps": float(self.skipped),
            "train/examples_per_s": self.num_steps * batch_size / elapsed,
        }

    def nonfinite_crops(self) -> set[int]:
        """Crops of this worker whose loss was not finite in the window. Waits for the device."""
        crops: set[int] = set()
        for numbers, values in self.examples:
            crops.update(numbers[~values.isfinite().cpu()].tolist())
        return crops

    def restart(self) -> None:
        """Begins the next window."""
        self.losses.zero_()
        self.skipped.zero_()
        self.examples.clear()
        self.num_steps, self.started = 0, time.perf_counter()
