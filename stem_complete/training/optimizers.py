"""Optimizers by name, torch's and one of our own, with steps that a flag on the device can skip."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from stem_complete.errors import ConfigError
from stem_complete.training.schedule import Stage
from stem_complete.training.spam import SPAM

_SET_ELSEWHERE = {"params", "lr", "betas", "fused", "foreach", "capturable", "differentiable"}
_BEGIN_AT_ZERO = {"Adam", "AdamW", "Adagrad", "SPAM"}
"""Fused ones whose new state is right after a skipped step, too."""

_LEAST_MOMENTUM = 1e-12
"""Without any, torch would keep no running sum of gradients, and could not begin one later."""
_OURS: dict[str, type[optim.Optimizer]] = {"SPAM": SPAM}
"""Those that torch does not have."""


class GuardedOptimizer:
    """An optimizer that takes no step, in weights or state, where losses or gradients are bad.

    Adam, AdamW, SPAM, SGD and Adagrad have fused kernels that take the flag (`found_inf`) at no
    cost. The others take every step, after which the device chooses between the tensors before and
    after: one more copy of weights and state in memory, and two more passes over them. All but
    Adam, AdamW, SPAM and Adagrad wait for the device at the first step with a state that they had
    not before, since a state that a skipped step made could not be taken back.

    Args:
        groups: Parameters by name of the group.
        name: Of the class in `torch.optim`, which takes dense gradients and keeps its state in
            tensors; or `SPAM`.
        options: Of that class, apart from learning rate and betas.
        learning_rate: Before any stage.
        betas: Before any stage; for those classes that have them.
        on_gpu: Whether the parameters are on a GPU.
        cuda_graph: Whether steps are recorded in a CUDA graph.

    Raises:
        ConfigError: The class has no such option, or refuses its value.
    """

    def __init__(
        self,
        groups: Mapping[str, list[nn.Parameter]],
        name: str,
        options: Mapping[str, Any],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        on_gpu: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        settings = _settings(name, options, betas, on_gpu=on_gpu, cuda_graph=cuda_graph)
        labelled = [{"params": group, "name": label} for label, group in groups.items()]
        try:
            self.torch: optim.Optimizer = _class(name)(labelled, lr=learning_rate, **settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                expected=f"options that {name} takes",
                found=str(error),
                where="optimizer.options",
                fix="see the documentation of torch, and correct optimizer.options",
            ) from None
        self.takes_flag = getattr(self.torch, "_step_supports_amp_scaling", False)
        self._begins_at_zero = self.takes_flag and name in _BEGIN_AT_ZERO
        self._begun = False
        self._frozen: tuple[str, ...] = ()
        self._momentum = settings.get("momentum", 0.0)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Torch's parameter groups, each with its `name`."""
        return self.torch.param_groups

    def parameters_with_gradient(self) -> list[nn.Parameter]:
        """Those that the last backward pass reached, in order of the groups."""
        return [p for group in self.groups for p in group["params"] if p.grad is not None]

    @property
    def has_momentum(self) -> bool:
        """Whether a schedule of beta1 changes anything."""
        return "betas" in self.torch.defaults or self._momentum > 0

    def enter(self, stage: Stage) -> None:
        """Sets the stage's rates and betas, or momentum."""
        if stage.frozen != self._frozen:  # a group that was frozen may have no state yet
            self._frozen, self._begun = stage.frozen, False
        for group in self.groups:
            group["lr"] = stage.rate(group["name"])
            if stage.betas is not None and "betas" in group:
                group["betas"] = stage.betas
            if self._momentum:
                group["momentum"] = max(self._momentum * stage.momentum, _LEAST_MOMENTUM)

    def step(self, usable: Tensor) -> None:
        """Takes a step if `usable`, []; leaves weights and state as they are if not."""
        if not (self._begun or self._begins_at_zero):
            if not bool(usable):
                return
            self._begun = True
            usable = torch.ones_like(usable)
            self._step_if(usable) if self.takes_flag else self.torch.step()
        elif self.takes_flag:
            self._step_if(usable)
        else:
            self._step_and_choose(usable)

    def _step_if(self, usable: Tensor) -> None:
        self.torch.found_inf = (~usable).float()  # type: ignore[attr-defined]
        self.torch.grad_scale = None  # type: ignore[attr-defined]
        self.torch.step()

    @torch.no_grad()
    def _step_and_choose(self, usable: Tensor) -> None:
        state = [t for values in self.torch.state.values() for t in values.values()]
        tensors = [*self.parameters_with_gradient(), *state]
        before = [tensor.clone() for tensor in tensors]
        self.torch.step()
        for tensor, kept in zip(tensors, before, strict=True):
            torch.where(usable, tensor, kept, out=tensor)

    def state(self, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """The state by `<parameter>.<kind>`, as in `network.weight.exp_avg`; none before a step.

        Args:
            names: Parameters by name.
        """
        return {
            f"{name}.{kind}": value
            for name, parameter in names.items()
            for kind, value in self.torch.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def load(self, tensors: Mapping[str, Tensor], names: Mapping[str, nn.Parameter]) -> None:
        """Takes over what `state` gave, in the parameters' memory formats.

        Raises:
            KeyError: A parameter is unknown.
        """
        numbers = {
            parameter: number
            for number, parameter in enumerate(p for g in self.groups for p in g["params"])
        }
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, kind = key.rpartition(".")
            parameter = names[name]
            own = torch.empty_like(parameter if value.shape == parameter.shape else value)
            state.setdefault(numbers[parameter], {})[kind] = own.to(value.dtype).copy_(value)
        groups = self.torch.state_dict()["param_groups"]
        self.torch.load_state_dict({"state": state, "param_groups": groups})


def _settings(
    name: str,
    options: Mapping[str, Any],
    betas: tuple[float, float],
    *,
    on_gpu: bool,
    cuda_graph: bool,
) -> dict[str, Any]:
    """Arguments of the optimizer's class, apart from parameters and rate."""
    accepted = inspect.signature(_class(name)).parameters
    allowed = [key for key in accepted if key not in _SET_ELSEWHERE]
    for key in options:
        if key not in allowed:
            raise ConfigError(
                expected=f"options of {name}: {', '.join(allowed)}",
                found=key,
                where="optimizer.options",
                fix="rate and betas are optimizer.learning_rate, beta1 and beta2",
            )
    settings = dict(options)
    if "betas" in accepted:
        settings["betas"] = betas
    if "fused" in accepted:
        settings["fused"] = True
    if "capturable" in accepted:
        # Without a fused kernel, step counters must be on the GPU for a flag there to choose them.
        settings["capturable"] = cuda_graph or (on_gpu and "fused" not in accepted)
    return settings


def _class(name: str) -> Any:
    """Of an optimizer; each takes settings of its own."""
    return _OURS.get(name) or getattr(optim, name)
