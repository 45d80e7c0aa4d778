"""What methods of clipping make of a batch with an outlier, of both parts of its gradient.

A method leaves some of each element of a gradient. That much it leaves of the part that an outlier
gave, and of the part of all others, so that both can be told apart after it acted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stem_complete.config import Config, GradientClippingConfig
from stem_complete.console import say
from stem_complete.data.cifar10 import NUM_CHANNELS
from stem_complete.data.examples import Examples
from stem_complete.data.loader import Batch, training_batches
from stem_complete.training import Task
from stem_complete.training.gradient_clipping import GradientClipping, Gradients, build_clipping
from stem_complete.training.optimizers import GuardedOptimizer
from stem_complete.training.schedule import Stage

BATCH = 16
CONTRASTS = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.0)
"""Of what is faded; 1 with the white pixel. The image as it is is None."""

NORM_QUANTILE = 0.9
"""Of the norms seen, at which all together are limited: the habit of looking before one sets it."""

METHODS = ("none", "alrc", "norm", "agc", "zclip", "adagc", "spam", "skip")

_USABLE = torch.tensor(True)


class Effect(NamedTuple):
    """What one method makes of one batch.

    Attributes:
        method: One of `METHODS`.
        batch: Number of the batch.
        contrast: Of the outlier; None: the batch has none.
        loss_ratio: The last image's loss to the mean loss of the fifteen.
        fifteen: What is left of the fifteen's gradient, along itself, to its norm before.
        last: Norm of what is left of the last image's gradient, to that of the fifteen's before.
        cosine: Between the whole gradient that is left and the fifteen's; 0 if none is left.
    """

    method: str
    batch: int
    contrast: float | None
    loss_ratio: float
    fifteen: float
    last: float
    cosine: float


class _Method(NamedTuple):
    """What acts on gradients, with all that it remembers of them; only SPAM is an optimizer."""

    clipping: GradientClipping
    optimizer: GuardedOptimizer | None


class _Losses(NamedTuple):
    """Of some images: as measured, and gradients of their sum over `BATCH`, flat."""

    values: Tensor
    measured: Tensor
    clipped: Tensor


def effects_of_outliers(
    task: Task, examples: Examples, config: Config, *, steps: int, num_batches: int
) -> list[Effect]:
    """Trains without any clipping, while all methods look on, then shows each the same outliers.

    Args:
        task: With one loss, `image`; with ALRC.
        examples: Of CIFAR-10.
        config: Its rate and betas are Adam's.
        steps: Of training.
        num_batches: Of those that follow, each with all `CONTRASTS` of its last image.
    """
    methods = _trained(task, config, _batches(examples, config, range(steps)))
    shown = range(steps, steps + num_batches)
    effects = []
    for step, batch in zip(shown, _batches(examples, config, shown), strict=True):
        fifteen = _losses(task, batch.examples[:-1], step, batch.positions[:-1])
        size = fifteen.measured.norm()
        along = fifteen.measured / size
        for contrast in (None, *CONTRASTS):
            image = batch.examples[-1:]
            faded = image if contrast is None else with_hot_pixel(image, contrast)
            last = _losses(task, faded, step, batch.positions[-1:])
            loss = torch.cat([fifteen.values, last.values]).mean()
            for name, method in methods.items():
                of = (lambda losses: losses.clipped) if name == "alrc" else _measured
                left = _left(task, method, of(fifteen), of(last), loss)
                effects.append(
                    Effect(
                        name,
                        step - steps + 1,
                        contrast,
                        float(last.values / fifteen.values.mean()),
                        float(left[0] @ along / size),
                        float(left[1].norm() / size),
                        _cosine(left[0] + left[1], along),
                    )
                )
    return effects


def _measured(losses: _Losses) -> Tensor:
    return losses.measured


def _trained(task: Task, config: Config, batches: Iterator[Batch]) -> dict[str, _Method]:
    """All methods, after the task was trained without any while they saw what they were to clip."""
    parameters, norms = list(task.parameters()), []
    adam = _optimizer("Adam", config, parameters, config.optimizer.learning_rate)
    methods = {name: _method(name, config, task) for name in METHODS}
    for step, batch in enumerate(batches):
        losses = task(batch.examples, step, batch.positions).losses["image"]
        gradient = _gradient(losses.mean(), parameters)
        for method in methods.values():
            _act(method, parameters, gradient, losses.mean())
        _set_gradients(parameters, gradient)
        adam.step(_USABLE)
        task.commit(task.statistics(), _USABLE)
        norms.append(float(gradient.norm()))
        if (step + 1) % 10 == 0:
            loss = float(losses.detach().mean())
            say(f"step {step + 1}: loss {loss:.3g}, norm of the gradient {norms[-1]:.3g}")
    late = torch.tensor(norms[len(norms) // 2 :])
    methods["norm"].clipping.limit = float(late.quantile(NORM_QUANTILE))
    return methods


def _method(name: str, config: Config, task: Task) -> _Method:
    kind: Any = name if name not in ("alrc", "spam") else "none"
    clipping = build_clipping(GradientClippingConfig(kind=kind), task)
    spam = _optimizer("SPAM", config, list(task.parameters())) if name == "spam" else None
    return _Method(clipping, spam)


def _optimizer(
    name: str, config: Config, parameters: Sequence[nn.Parameter], rate: float = 0.0
) -> GuardedOptimizer:
    """At a rate of 0 it sees gradients and changes no weight."""
    betas = config.optimizer.beta1, config.optimizer.beta2
    groups = {"network": list(parameters)}
    made = GuardedOptimizer(groups, name, {}, learning_rate=rate, betas=betas)
    made.enter(Stage(0, rate))
    return made


def _act(
    method: _Method, parameters: Sequence[nn.Parameter], gradient: Tensor, loss: Tensor
) -> Tensor:
    """What a method leaves of a flat gradient; 0 where the step is skipped."""
    _set_gradients(parameters, gradient)
    found = Gradients(parameters, gradient.norm().float(), loss.detach(), _USABLE)
    taken = method.clipping(found)
    if method.optimizer is not None:
        method.optimizer.step(taken)
    left: Tensor = _flat(found.tensors) * taken
    return left


def _left(
    task: Task, method: _Method, fifteen: Tensor, last: Tensor, loss: Tensor
) -> tuple[Tensor, Tensor]:
    """What a method leaves of both parts of a gradient; it does not remember them."""
    gradient = fifteen + last
    with _kept(task, method):
        left = _act(method, list(task.parameters()), gradient, loss)
    # Where there was none, as little matters as is left.
    factor = torch.where(gradient != 0, left / gradient, 0.0)
    return factor * fifteen, factor * last


@contextmanager
def _kept(task: Task, method: _Method) -> Iterator[None]:
    tensors = list(method.clipping.buffers())
    if method.optimizer is not None:
        tensors += method.optimizer.state(dict(task.named_parameters())).values()
    kept = [tensor.clone() for tensor in tensors]
    yield
    for tensor, value in zip(tensors, kept, strict=True):
        tensor.copy_(value)


def _losses(task: Task, examples: Tensor, step: int, positions: Tensor) -> _Losses:
    output = task(examples, step, positions)
    parameters = list(task.parameters())
    measured = _gradient(output.losses["image"].sum() / BATCH, parameters, keep=True)
    clipped = _gradient(output.loss.sum() / BATCH, parameters)
    return _Losses(output.losses["image"].detach(), measured, clipped)


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter], *, keep: bool = False) -> Tensor:
    return _flat(torch.autograd.grad(loss, parameters, retain_graph=keep))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """In double precision, in which sums of so many products are exact enough to be divided."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).double()


def _set_gradients(parameters: Sequence[nn.Parameter], gradient: Tensor) -> None:
    """A copy of a flat gradient, in the parameters' memory formats."""
    parts = torch.split(gradient, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))


def _cosine(one: Tensor, other: Tensor) -> float:
    norms = float(one.norm() * other.norm())
    return float(one @ other) / norms if norms else 0.0


def with_hot_pixel(examples: Tensor, contrast: float) -> Tensor:
    """Examples of CIFAR-10 [b, 3073] uint8, faded to their means, with a white pixel in each.

    Args:
        examples: See `Cifar10`.
        contrast: What is left of all differences from the mean, 0 .. 1.
    """
    planes = examples[:, 1:].view(len(examples), NUM_CHANNELS, -1).float()
    mean = planes.mean((1, 2), keepdim=True)
    faded = (mean + contrast * (planes - mean)).round().clamp(0, 255).to(torch.uint8)
    faded[:, :, faded.shape[2] // 3] = 255
    return torch.cat([examples[:, :1], faded.flatten(1)], dim=1)


def _batches(examples: Examples, config: Config, steps: range) -> Iterator[Batch]:
    return training_batches(
        examples,
        steps=steps,
        seed=config.training.seed,
        batch_size=BATCH,
        micro_batch_size=BATCH,
    )
