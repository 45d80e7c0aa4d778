"""Gradient clipping: what is done to the gradients of a step before the optimizer sees them.

Gradients are those of the mean loss over the global batch, after all micro-batches and the exchange
between workers, so that every worker clips the same. A method is a module: buffers that it has are
saved in checkpoints and must be the same on every worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_


class NoClipping(nn.Module):
    """Leaves gradients as they are."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, parameters: Sequence[nn.Parameter], norm: Tensor) -> None:
        """Changes the gradients of a step in place, without waiting for the device.

        Args:
            parameters: Those with a gradient.
            norm: Euclidean norm of all their gradients, [].
        """


class ValueClipping(NoClipping):
    """Limits every element of a gradient to [-limit, limit]."""

    def forward(self, parameters: Sequence[nn.Parameter], norm: Tensor) -> None:  # noqa: ARG002
        """Limits the elements; see `NoClipping.forward`."""
        clip_grad_value_(parameters, self.limit)


class NormClipping(NoClipping):
    """Scales all gradients by one factor, so that their norm is at most `limit`."""

    def forward(self, parameters: Sequence[nn.Parameter], norm: Tensor) -> None:
        """Scales the gradients; see `NoClipping.forward`."""
        clip_grads_with_norm_(parameters, self.limit, norm)


CLIPPINGS: dict[str, type[NoClipping]] = {
    "none": NoClipping,
    "value": ValueClipping,
    "norm": NormClipping,
}
"""By the name in `training.gradient_clipping.kind`. A new method has its class here and its name in
`config.schema.GradientClippingConfig`."""
