"""What norms remember of the images that were trained on, moved once per optimizer step.

`forward` adds to `pending` what a norm has seen; once that is summed over all workers, and the step
was usable, `commit` moves the running statistics. So a bad step leaves them, and all workers agree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

DECAY = 0.99  # ALRC paper, section IV


class RunningStatistics(nn.Module, ABC):
    """A norm with running statistics.

    Args:
        decay: Of the statistics, per step.

    Attributes:
        frozen: Whether the statistics stay as they are and are used in training mode, too.
    """

    pending: Tensor

    def __init__(self, decay: float = DECAY) -> None:
        super().__init__()
        self.decay = decay
        # A Python bool keeps `forward` free of host syncs; the state dict wants a tensor.
        self.frozen = False

    @abstractmethod
    def commit(self, pending: Tensor) -> None:
        """Moves the running statistics towards those of a step and forgets what was pending.

        Args:
            pending: `pending`, summed over all ranks, its last element a number. Where that is 0,
                and where sums are not finite, the running statistics stay as they are.
        """

    def get_extra_state(self) -> Tensor:
        """The frozen flag, for the state dict."""
        return torch.tensor(self.frozen)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the frozen flag from a state dict."""
        self.frozen = bool(state)

    @torch.no_grad()
    def move(self, running: Tensor, sums: Tensor, count: Tensor) -> None:
        """Moves `running` [c] towards `sums` [c] over `count` []; see `commit`."""
        mean = sums / count.clamp(min=1)
        moved = running.lerp(mean.to(running.dtype), 1 - self.decay)
        running.copy_(torch.where((count > 0) & mean.isfinite(), moved, running))


def running_norms(network: nn.Module) -> list[RunningStatistics]:
    """All norms of `network` with running statistics, in a fixed order."""
    return [module for module in network.modules() if isinstance(module, RunningStatistics)]


def pending_statistics(network: nn.Module) -> Tensor:
    """`pending` of all norms as one vector, to sum over ranks."""
    parts = [norm.pending for norm in running_norms(network)]
    return torch.cat(parts) if parts else torch.zeros(0)


def commit_statistics(network: nn.Module, pending: Tensor) -> None:
    """Commits the vector that `pending_statistics` returned, summed over ranks, to all norms."""
    norms = running_norms(network)
    parts = torch.split(pending, [len(norm.pending) for norm in norms])
    for norm, part in zip(norms, parts, strict=True):
        norm.commit(part)


def freeze_norms(network: nn.Module, frozen: bool = True) -> None:
    """Freezes running statistics and uses them from now on, in training mode too; or ends that.

    The ALRC paper freezes them in the second half of training. Mean norms with "image" means at
    inference still subtract image means, so that training and inference do the same.
    """
    for norm in running_norms(network):
        norm.frozen = frozen
        norm.pending.zero_()
