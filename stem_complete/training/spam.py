"""SPAM: Adam that clips spikes of single elements, and forgets its moments now and then.

Huang et al. 2025, "SPAM: spike-aware Adam with momentum reset for stable LLM training",
arXiv:2501.06842, algorithm 1, and the authors' code where that says more. Their sparse momentum,
which saves memory, is left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

_NUM_UNCLIPPED = 20
"""Steps from the start, and from each reset, whose second moments say too little to clip by."""

_LARGEST_CUT = 0.99
"""By how much the first rate after a reset is less than the usual one."""


class SPAM(Adam):
    """Adam whose state decides which elements are spikes, and when all of it is forgotten.

    An element g of a gradient with g^2 > theta v, v its second moment without bias correction,
    becomes sign(g) sqrt(theta v). So an element with v = 0 gets nothing until the next reset. Each
    `reset_every_steps` both moments become 0, after which the learning rate rises from a hundredth
    along half a period of a cosine; Adam's bias correction goes on.

    Weights decay apart from the gradient, as AdamW's (Loshchilov and Hutter 2019). So they do in
    the authors' code, where they decay after the step, and as much while the rate rises; here they
    decay before it and by its rate. Algorithm 1 has no decay.

    The steps that count are those of each parameter, which are part of Adam's state. So a run
    resets at the same steps however often it is resumed, and skipped steps do not count.

    Args:
        params: See `torch.optim.AdamW`, as for all that is not told here.
        eps: The authors' code has 1e-6, and adds it before bias correction.
        threshold: theta; the authors have 5,000.
        reset_every_steps: The authors have 500.
        warmup_steps: How long the rate rises; the authors have 150.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        threshold: float = 5000.0,
        reset_every_steps: int = 500,
        warmup_steps: int = 150,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        if threshold <= 0 or not 0 < warmup_steps < reset_every_steps:
            raise ValueError(
                "SPAM needs threshold > 0 and 0 < warmup_steps < reset_every_steps, got "
                f"{threshold}, {warmup_steps} and {reset_every_steps}"
            )
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
            fused=fused,
            capturable=capturable,
        )
        self.threshold = threshold
        self.reset_every_steps, self.warmup_steps = reset_every_steps, warmup_steps

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Takes a step; gradients are clipped in place."""
        assert closure is None, "spikes are found between gradients and step"
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                if self.state[parameter]:
                    self._forget_and_clip(parameter)
            if parameters:  # a group is frozen as a whole: they have taken as many steps
                group["lr"] = group["lr"] * self._share(self._number(parameters[0]))
        super().step()
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate

    def _number(self, parameter: nn.Parameter) -> Tensor:
        """Of this step among those of a parameter, from 1, []."""
        taken: Tensor | None = self.state[parameter].get("step")
        return torch.ones((), device=parameter.device) if taken is None else taken + 1

    def _forget_and_clip(self, parameter: nn.Parameter) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        since = self._number(parameter) % self.reset_every_steps
        forgets = since == 0
        skipped = getattr(self, "found_inf", None)
        if skipped is not None:
            forgets = forgets & (skipped == 0)
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment].mul_(~forgets)
        most = (self.threshold * state["exp_avg_sq"]).sqrt_()
        clipped = gradient.clamp(-most, most)
        gradient.copy_(torch.where(since >= _NUM_UNCLIPPED, clipped, gradient))

    def _share(self, number: Tensor) -> Tensor:
        """Of the learning rate, in a step of this number."""
        since = (number % self.reset_every_steps).clamp(max=self.warmup_steps)
        rising = 1 - _LARGEST_CUT * (1 + (since * (math.pi / self.warmup_steps)).cos()) / 2
        return torch.where(number < self.reset_every_steps, torch.ones_like(rising), rising)
