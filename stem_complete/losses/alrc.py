"""Adaptive learning rate clipping (ALRC).

Ede and Beanland, "Adaptive learning rate clipping stabilizes learning", Mach. Learn.: Sci.
Technol. 1 (2020) 015011, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

NUM_STATISTICS = 4
"""Length of `ALRC.pending`: sum of L, sum of L^2, number of finite and of non-finite losses."""


class ALRC(nn.Module):
    """Limits losses to a number of standard deviations above their running mean.

    A loss L above `threshold = mu1 + num_stddev * sqrt(mu2 - mu1^2)` becomes
    `stop_gradient(threshold / L) * L`: its value is the threshold, and its gradient keeps its
    direction and is scaled by threshold / L. The moments are those from before the step; then

        mu1 <- decay[0] * mu1 + (1 - decay[0]) * mean(L)
        mu2 <- decay[1] * mu2 + (1 - decay[1]) * mean(L^2)

    The loss may have any shape: one value per batch, per example or per pixel. Nothing here
    synchronises with the host, so it compiles and can be captured in a CUDA graph.

        alrc = ALRC()
        loss = alrc(per_example_losses).mean()

    Over several ranks or with gradient accumulation, use `accumulate=True` and call `commit()`
    once per optimizer step: moments are then those of the global batch, and equal on every rank.

    Losses that are not finite pass through unchanged, so that the caller sees them, but are left
    out of the moments; `num_nonfinite` counts them. In evaluation mode losses are clipped and the
    moments stay as they are.

    Args:
        num_stddev: Standard deviations above the mean to which losses are limited; 3 in the paper.
        decay: Decay rates of mu1 and mu2 per step, in [0, 1].
        mu1_start: First guess of the mean. Any sensible overestimate works; too high a guess
            leaves ALRC inert for a few times 1 / (1 - decay) steps.
        mu2_start: First guess of the mean square; above `mu1_start^2`.
        moments: Whether the moments see the `"raw"` losses (Algorithm 1) or the `"clipped"` ones
            (the published code). Raw moments follow a genuine rise of the loss sooner; clipped
            ones are not inflated by a spike.
        accumulate: Leave the update of the moments to `commit`.
        variance_floor: Added to the variance under the root; 1e-8 in the published code.
        num_stddev_below: Also raise losses to this many deviations below the mean; None does not.
        offset: Added to the loss before and subtracted after, for losses that may be negative.
        intake: Weight of a step's means in the moments, in place of 1 - decay. The published
            CIFAR-10 code takes 0.001 at a decay of 0.997: its moments come to a third of the true
            ones, and its thresholds to less than it says.
    """

    mu1: Tensor
    mu2: Tensor
    pending: Tensor
    num_nonfinite: Tensor

    def __init__(
        self,
        num_stddev: float = 3.0,
        decay: tuple[float, float] = (0.999, 0.999),
        mu1_start: float = 25.0,
        mu2_start: float = 900.0,
        moments: Literal["raw", "clipped"] = "raw",
        accumulate: bool = False,
        *,
        variance_floor: float = 0.0,
        num_stddev_below: float | None = None,
        offset: float = 0.0,
        intake: float | None = None,
    ) -> None:
        super().__init__()
        if not all(0 <= rate <= 1 for rate in decay):
            raise ValueError(f"decay must be two rates in [0, 1], got {decay}")
        if mu1_start**2 >= mu2_start:
            raise ValueError(
                f"mu2_start must exceed mu1_start^2, got {mu2_start} <= {mu1_start**2}"
            )
        if moments not in ("raw", "clipped"):
            raise ValueError(f'moments must be "raw" or "clipped", got {moments!r}')
        if variance_floor < 0:
            raise ValueError(f"variance_floor must not be negative, got {variance_floor}")
        if intake is not None and not 0 <= intake <= 1 - max(decay):
            raise ValueError(f"intake must be from 0 to 1 - decay, got {intake}")
        self.num_stddev = num_stddev
        self.num_stddev_below = num_stddev_below
        self.decay = decay
        self.moments = moments
        self.accumulate = accumulate
        self.variance_floor = variance_floor
        self.offset = offset
        self._intakes = [1 - rate if intake is None else intake for rate in decay]
        # In float32 `(1 - decay) * (mean - mu)` falls below half a unit in the last place of mu
        # once losses vary little, so that mu stops short; and mu2 - mu1^2 cancels.
        self.register_buffer("mu1", torch.tensor(mu1_start, dtype=torch.float64))
        self.register_buffer("mu2", torch.tensor(mu2_start, dtype=torch.float64))
        self.register_buffer("num_nonfinite", torch.zeros((), dtype=torch.float32))
        pending = torch.zeros(NUM_STATISTICS, dtype=torch.float32)
        self.register_buffer("pending", pending, persistent=False)
        self.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            _read_moments_of_earlier_versions
        )

    @property
    def stddev(self) -> Tensor:
        """Running standard deviation of the loss, []."""
        return self._stddev().float()

    @property
    def threshold(self) -> Tensor:
        """Loss to which the next step clips, []; in the units of the loss plus `offset`."""
        return (self.mu1 + self.num_stddev * self._stddev()).float()

    def _stddev(self) -> Tensor:
        # Different decay rates, or rounding, can make the difference negative.
        variance = (self.mu2 - self.mu1 * self.mu1).clamp(min=0)
        return (variance + self.variance_floor if self.variance_floor else variance).sqrt()

    def forward(self, loss: Tensor) -> Tensor:
        """Clipped losses, of the shape of `loss`.

        Args:
            loss: Losses of any shape, not negative once `offset` is added.
        """
        shifted = loss + self.offset if self.offset else loss
        raw = shifted.detach().float()
        finite = raw.isfinite()
        clipped = shifted * self._scale(raw, finite).to(loss.dtype)
        if self.training:
            seen = raw if self.moments == "raw" else clipped.detach().float()
            self._accumulate(seen, finite)
            if not self.accumulate:
                self.commit()
        return clipped - self.offset if self.offset else clipped

    def _scale(self, loss: Tensor, finite: Tensor) -> Tensor:
        """Factor on each loss, a constant to the gradient."""
        # Compare first, divide after: threshold / loss is NaN where both are zero. A loss that is
        # not finite keeps factor 1, so that it stays visible.
        threshold = self.threshold
        scale = torch.where((loss > threshold) & finite, threshold / loss, 1.0)
        if self.num_stddev_below is not None:
            floor = (self.mu1 - self.num_stddev_below * self._stddev()).float()
            scale = torch.where((loss < floor) & (loss > 0), floor / loss, scale)
        return scale

    def _accumulate(self, loss: Tensor, finite: Tensor) -> None:
        loss = loss.nan_to_num(0.0, 0.0, 0.0)
        # The square may overflow where the loss itself does not: such a step would leave mu2
        # infinite for ever, so the largest float stands in for it.
        square = (loss * loss).sum().clamp(max=torch.finfo(torch.float32).max)
        num_finite = finite.sum(dtype=torch.float32)
        self.pending += torch.stack((loss.sum(), square, num_finite, finite.numel() - num_finite))

    def commit(self, statistics: Tensor | None = None) -> None:
        """Updates the moments from what was accumulated since the last commit.

        Sums over all ranks of the default process group first, if there is one. Without any
        finite loss since the last commit the moments stay as they are.

        Args:
            statistics: `pending`, [4], already summed over all ranks, for a caller that sends it
                along with other statistics in one all-reduce.
        """
        if statistics is None:
            statistics = self.pending
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(statistics)
        loss_sum, square_sum, num_finite, num_nonfinite = statistics.double().unbind()
        any_finite, count = num_finite > 0, num_finite.clamp(min=1)
        # Rates stay Python numbers: as a tensor they would make the host wait for the device.
        for moment, total, rate, intake in zip(
            (self.mu1, self.mu2), (loss_sum, square_sum), self.decay, self._intakes, strict=True
        ):
            moved = (intake * (total / count)).add(moment, alpha=rate)
            moment.copy_(torch.where(any_finite, moved, moment))
        self.num_nonfinite += num_nonfinite
        self.pending.zero_()


def _read_moments_of_earlier_versions(
    _module: nn.Module, state: dict[str, Tensor], prefix: str, *_rest: object
) -> None:
    """Puts what was float32 moments, and what rounding had left of both in `rest`, together."""
    if (rest := state.pop(f"{prefix}rest", None)) is None:
        return
    for name, low_bits in zip(("mu1", "mu2"), rest, strict=True):
        state[f"{prefix}{name}"] = state[f"{prefix}{name}"].double() + low_bits.double()


class ClippingLosses(nn.Module):
    """ALRC of several losses, each with moments of its own.

    Args:
        names: Of the losses that are clipped.
        make: Makes the ALRC of one of them.
    """

    def __init__(self, names: Sequence[str], make: Callable[[], ALRC] = ALRC) -> None:
        super().__init__()
        self._by_name = {name: make() for name in names}
        for name, alrc in self._by_name.items():
            self.add_module(name, alrc)

    def __getitem__(self, name: str) -> ALRC:
        return self._by_name[name]

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of any shapes after clipping, by name; those without ALRC as they are."""
        return {
            name: self._by_name[name](loss) if name in self._by_name else loss
            for name, loss in losses.items()
        }

    def thresholds(self) -> dict[str, Tensor]:
        """Loss to which the next step clips, [], by name."""
        return {name: alrc.threshold for name, alrc in self._by_name.items()}

    def statistics(self) -> dict[str, Tensor]:
        """What was accumulated since the last `commit`, [4] by `alrc/<name>`, to be summed."""
        return {f"alrc/{name}": alrc.pending for name, alrc in self._by_name.items()}

    def commit(self, sums: Mapping[str, Tensor]) -> None:
        """Updates all moments from `statistics` summed over all ranks."""
        for name, alrc in self._by_name.items():
            alrc.commit(sums[f"alrc/{name}"])
