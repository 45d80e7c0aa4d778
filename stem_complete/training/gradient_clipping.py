"""Clipping of gradients, and of whole steps: what is compared with clipping losses (ALRC).

Each acts on the gradients of the mean loss over the global batch, once they are the same on every
worker and all micro-batches are in them, and from what it has seen of those; so every worker does
the same. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_

from stem_complete.config import GradientClippingConfig

_TINY = 1e-6
"""Keeps ratios of norms finite where both are 0."""


class Gradients(NamedTuple):
    """What a step has before its gradients are clipped.

    Attributes:
        parameters: Those with a gradient.
        norm: Euclidean norm of all gradients, [].
        loss: Mean loss as measured, [].
        usable: Whether losses and gradients are finite, []; only then is anything remembered.
    """

    parameters: Sequence[nn.Parameter]
    norm: Tensor
    loss: Tensor
    usable: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """The gradients."""
        return [p.grad for p in self.parameters if p.grad is not None]


class GradientClipping(nn.Module):
    """Leaves gradients as they are; others change them.

    Its buffers are part of a run's checkpoints.

    Args:
        limit: Of what is clipped; each kind says in which units.
        network: Has all parameters that may have a gradient.
    """

    usual = 1.0
    """The limit where a config has none: that of the method's authors, where there are such."""

    def __init__(self, limit: float, network: nn.Module) -> None:
        del network  # most kinds need not know it
        super().__init__()
        self.limit = limit

    def forward(self, found: Gradients) -> Tensor:
        """Changes gradients in place, and says whether the step is to be taken, []."""
        return found.usable


class ByValue(GradientClipping):
    """Limits every element of a gradient to `limit`."""

    def forward(self, found: Gradients) -> Tensor:
        """See `GradientClipping.forward`."""
        clip_grad_value_(found.parameters, self.limit)
        return found.usable


class ByNorm(GradientClipping):
    """Limits the norm of all gradients together to `limit`, by one factor."""

    def forward(self, found: Gradients) -> Tensor:
        """See `GradientClipping.forward`."""
        clip_grads_with_norm_(found.parameters, self.limit, found.norm)
        return found.usable


class ByLayer(GradientClipping):
    """Limits the norm of each tensor's gradient to `limit`."""

    def forward(self, found: Gradients) -> Tensor:
        """See `GradientClipping.forward`."""
        gradients = found.tensors
        norms = _norms(gradients)
        _scale(gradients, (self.limit / norms.clamp(min=_TINY)).clamp(max=1))
        return found.usable


class AGC(GradientClipping):
    """Limits each unit's gradient to `limit` times the norm of its weights.

    A unit is a row of a matrix or a filter of a convolution, transposed or not: all that makes one
    output. Biases and gains of a layer are one unit. With weight norm the weights are the filters
    of `v` and, as gains, all of `g`; their ratios are limited, not that of the kernel `g v / |v|`.
    Weights count as no smaller than 0.001. Brock et al. 2021, "High-performance large-scale image
    recognition without normalization", eq. 3; they have 0.01.

    As in their code, the weights of a last layer that is linear stay unclipped. A last layer that
    is a convolution, as where images are made, is clipped as all others.

    Args:
        limit: See above.
        network: Registers its last layer last.
    """

    usual = 0.01
    smallest = 1e-3

    def __init__(self, limit: float, network: nn.Module) -> None:
        super().__init__(limit, network)
        layers = [each for each in network.modules() if _own_weights(each)]
        self._transposed = {
            weight
            for layer in layers
            if getattr(layer, "transposed", False)
            for weight in _own_weights(layer)
        }
        last = layers[-1] if layers else None
        self._unclipped = set(_own_weights(last)) if isinstance(last, nn.Linear) else set()

    def forward(self, found: Gradients) -> Tensor:
        """See `GradientClipping.forward`."""
        for parameter in found.parameters:
            if parameter in self._unclipped:
                continue
            assert parameter.grad is not None
            outputs = 1 if parameter in self._transposed else 0
            weights = _of_units(parameter.detach(), outputs).clamp(min=self.smallest)
            gradients = _of_units(parameter.grad, outputs).clamp(min=_TINY)
            parameter.grad.mul_((self.limit * weights / gradients).clamp(max=1))
        return found.usable


class ZClip(GradientClipping):
    """Limits the norm of all gradients where it is `limit` deviations above its running mean.

    A norm z deviations above is clipped to limit^2 / z deviations above: the more it stands out,
    the more it is brought down. Running moments see the clipped norm. They begin as mean and
    variance of the first 25 norms, which are not clipped. Kumar et al. 2025, "ZClip: adaptive spike
    mitigation for LLM pre-training", section 3; they have 2.5, and decays of 0.97. Their code
    also limits every norm to 1 unless told otherwise (`max_grad_norm`), the first ones, too; that
    is left out, since the usual norms of our losses are above it.
    """

    usual = 2.5
    decay = 0.97
    num_first = 25

    mean: Tensor
    variance: Tensor
    num_seen: Tensor

    def __init__(self, limit: float, network: nn.Module) -> None:
        super().__init__(limit, network)
        for name in ("mean", "variance", "num_seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, found: Gradients) -> Tensor:
        """See `GradientClipping.forward`."""
        norm, usable = found.norm.float(), found.usable
        first = self.num_seen < self.num_first
        deviation = self.variance.sqrt()
        z = (norm - self.mean) / deviation.clamp(min=_TINY)
        clipped = self.mean + self.limit**2 / z * deviation
        clipped = torch.where(first | (z <= self.limit), norm, clipped)
        _scale(found.tensors, clipped / norm.clamp(min=_TINY))
        # Of the first norms the moments are plain means (Welford).
        share = torch.where(first, 1 / (self.num_seen + 1), 1 - self.decay)
        before = clipped - self.mean
        mean = self.mean + share * before
        after = clipped - mean
        # A running variance is about the new mean; a plain one about both means.
        square = torch.where(first, before * after, after.square())
        variance = self.variance + share * (square - self.variance)
        self.mean.copy_(torch.where(usable, mean, self.mean))
        self.variance.copy_(torch.where(usable, variance, self.variance))
        self.num_seen += usable
        return found.usable


class AdaGC(GradientClipping):
    """Limits the norm of each tensor's gradient to `limit` times the running mean of its norms.

    The running means see the clipped norms. In the first 100 steps all gradients are limited
    together to a norm of 1, and each tensor begins with the smallest of its norms. Wang et al.
    2025, "AdaGC: enhancing LLM pretraining stability via adaptive gradient clipping", algorithm 1;
    they have 1.05, and a decay of 0.98.

    Args:
        limit: See above.
        network: Has all parameters that may have a gradient, always in the same order.
    """

    usual = 1.05
    decay = 0.98
    num_first = 100
    first_norm = 1.0

    means: Tensor
    num_seen: Tensor

    def __init__(self, limit: float, network: nn.Module) -> None:
        super().__init__(limit, network)
        self._places = {parameter: place for place, parameter in enumerate(network.parameters())}
        self._index: dict[tuple[int, ...], Tensor] = {}
        self.register_buffer("means", torch.full((len(self._places),), torch.inf))
        self.register_buffer("num_seen", torch.zeros(()))

    def forward(self, found: Gradients) -> Tensor:
        """See `GradientClipping.forward`."""
        gradients, usable = found.tensors, found.usable
        places = self._index_of(found.parameters)
        means, first = self.means[places], self.num_seen < self.num_first
        norms = _norms(gradients)
        most = torch.where(
            first, self.first_norm * norms / found.norm.clamp(min=_TINY), self.limit * means
        )
        clipped = norms.minimum(most)
        _scale(gradients, clipped / norms.clamp(min=_TINY))
        # A tensor that was frozen until now has no mean yet.
        running = torch.where(
            means.isfinite(), self.decay * means + (1 - self.decay) * clipped, clipped
        )
        new = torch.where(first, means.minimum(clipped), running)
        self.means[places] = torch.where(usable, new, means)
        self.num_seen += usable
        return found.usable

    def _index_of(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Their places in `means`, [n], which a CUDA graph must find on the device."""
        places = tuple(self._places[parameter] for parameter in parameters)
        if places not in self._index:
            self._index[places] = torch.tensor(places, device=self.means.device)
        return self._index[places]


class SkippedSteps(GradientClipping):
    """Leaves out steps whose loss or norm is `limit` deviations above the mean of the last 128.

    It begins when it has seen 64. As OLMo 2 was trained (Walsh et al. 2025, "2 OLMo 2 Furious",
    and its library OLMo-core), with 6.
    """

    usual = 6.0
    length = 128

    seen: Tensor
    num_seen: Tensor

    def __init__(self, limit: float, network: nn.Module) -> None:
        super().__init__(limit, network)
        self.register_buffer("seen", torch.zeros(2, self.length))  # losses and norms, in a ring
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, found: Gradients) -> Tensor:
        """See `GradientClipping.forward`."""
        latest, usable = torch.stack((found.loss.float(), found.norm.float())), found.usable
        held = torch.arange(self.length, device=self.seen.device) < self.num_seen
        count = held.sum().clamp(min=2)
        mean = (self.seen * held).sum(1) / count
        variance = ((self.seen - mean[:, None]).square() * held).sum(1) / (count - 1)
        within = (latest <= mean + self.limit * variance.sqrt()).all()
        place = self.num_seen % self.length
        self.seen[:, place] = torch.where(usable, latest, self.seen[:, place])
        taken = usable & (within | (self.num_seen < self.length // 2))
        self.num_seen += usable
        return taken


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(each).float() for each in gradients])


def _scale(gradients: Sequence[Tensor], factors: Tensor) -> None:
    """Multiplies gradients by a factor each, [n], or all by one, []."""
    for gradient, factor in zip(gradients, factors.expand(len(gradients)), strict=True):
        gradient.mul_(factor)


def _own_weights(layer: nn.Module) -> list[nn.Parameter]:
    """Matrices and kernels of a layer itself."""
    return [p for p in layer.parameters(recurse=False) if p.ndim > 1]


def _of_units(values: Tensor, outputs: int) -> Tensor:
    """Norms of the units of a tensor, of a shape that multiplies it.

    Args:
        values: A matrix, kernel, bias or gain, or its gradient.
        outputs: Dimension along which each unit of a matrix or kernel has its place.
    """
    within = [dim for dim in range(values.ndim) if dim != outputs] if values.ndim > 1 else None
    norms: Tensor = torch.linalg.vector_norm(values, dim=within, keepdim=within is not None)
    return norms


KINDS: dict[str, type[GradientClipping]] = {
    "none": GradientClipping,
    "value": ByValue,
    "norm": ByNorm,
    "layer": ByLayer,
    "agc": AGC,
    "zclip": ZClip,
    "adagc": AdaGC,
    "skip": SkippedSteps,
}
"""By their names in `GradientClippingConfig`."""


def build_clipping(config: GradientClippingConfig, network: nn.Module) -> GradientClipping:
    """What a config describes.

    Args:
        config: Kind and limit.
        network: What is trained, or a task with it.
    """
    kind = KINDS[config.kind]
    return kind(config.limit or kind.usual, network)
