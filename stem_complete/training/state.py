"""All of a run that must survive a crash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stem_complete.config import Config
from stem_complete.errors import ArtifactError, ConfigError
from stem_complete.training.checkpoint_folder import Checkpoint
from stem_complete.training.gradient_clipping import GradientClipping, build_clipping
from stem_complete.training.optimizers import GuardedOptimizer
from stem_complete.training.schedule import Stage
from stem_complete.training.task import Task, device_of


class TrainingState:
    """Task, optimizer and step. Data order and noise need no state: they follow from the step.

    Args:
        task: What is trained, on its device.
        optimizer: Of the task's parameter groups.
        weight_average: Decay per step of a running average of the weights; None keeps none.
        clipping: What is done to gradients before a step; None: nothing.
    """

    def __init__(
        self,
        task: Task,
        optimizer: GuardedOptimizer,
        weight_average: float | None = None,
        clipping: GradientClipping | None = None,
    ) -> None:
        self.task, self.optimizer = task, optimizer
        self.clipping = clipping or GradientClipping(GradientClipping.usual, task)
        self.step = 0
        self.stage: Stage | None = None
        self.decay = weight_average
        self._frozen: list[nn.Parameter] = []
        # From 0, and so to be divided by how much of the weights it has seen.
        self.average: dict[str, Tensor] = {}
        if self.decay is not None:
            self.average = {n: torch.zeros_like(p) for n, p in self.task.named_parameters()}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Everything except the step, as tensors by name; empty parts are left out.

        `task`, the `optimizer`'s state as in `network.weight.exp_avg`, the weights' running sum as
        `average`, see `averaged_weights`, and what `clipping` has seen of gradients.
        """
        parts = {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state(self._parameters()),
            "average": self.average,
            "clipping": self.clipping.state_dict(),
        }
        return {name: part for name, part in parts.items() if part}

    def load(self, checkpoint: Checkpoint) -> None:
        """Takes over what `state_dict` gave, in this network's memory formats.

        Raises:
            ArtifactError: The checkpoint is of another network.
        """
        saved = checkpoint.state
        try:
            self.task.load_state_dict(saved["task"])
            self.optimizer.load(saved.get("optimizer", {}), self._parameters())
            for name, value in self.average.items():
                value.copy_(saved["average"][name])
            self.clipping.load_state_dict(saved.get("clipping", {}))
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                expected="the state of the network in its config",
                found=str(error),
                where=checkpoint.folder,
                fix="go on with the config that it was trained with, or train under another name",
            ) from None
        self.step = checkpoint.step

    def replicas(self) -> dict[str, Tensor]:
        """Every tensor that must be the same on all workers, by name, in a fixed order."""
        parts = {
            "": dict(self.task.named_parameters()) | dict(self.task.named_buffers()),
            "optimizer/": self.optimizer.state(self._parameters()),
            "average/": self.average,
            "clipping/": dict(self.clipping.named_buffers()),
        }
        return {
            f"{prefix}{name}": part[name] for prefix, part in parts.items() for name in sorted(part)
        }

    def is_finite(self) -> bool:
        """Whether weights, the optimizer's state and ALRC's moments are. Waits for the device."""
        tensors = [
            *self.task.parameters(),
            *self.task.alrc.buffers(),
            *self.optimizer.state(self._parameters()).values(),
        ]
        # Optimizers may count steps on the CPU.
        device = device_of(self.task)
        finite = [t.isfinite().all().to(device) for t in tensors if t.is_floating_point()]
        return bool(torch.stack(finite).all())

    def enter(self, stage: Stage) -> None:
        """Sets what a stage of the schedule says."""
        if stage == self.stage:
            return
        self.stage = stage
        self.optimizer.enter(stage)
        groups = self.optimizer.groups
        frozen = stage.freezes([group["name"] for group in groups])
        self._frozen = [p for group in groups if group["name"] in frozen for p in group["params"]]
        self.task.freeze(stage.freezes(self.task.running))

    def drop_frozen_gradients(self) -> None:
        """Leaves frozen groups without gradients, and so out of the step."""
        for parameter in self._frozen:
            parameter.grad = None

    @torch.no_grad()
    def update_average(self) -> None:
        """Adds the weights to their running average, if there is one."""
        if self.decay is not None:
            weights = [p.detach() for p in self.task.parameters()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.decay)

    @contextmanager
    def averaged(self) -> Iterator[Task]:
        """The task with the averaged weights, if there are such, while the context lasts."""
        averages = averaged_weights(self.average, self.step, self.decay)
        parameters = self._parameters()
        with torch.no_grad():
            kept = {name: parameters[name].clone() for name in averages}
            _copy(averages, parameters)
            try:
                yield self.task
            finally:
                _copy(kept, parameters)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.task.named_parameters())


def build_state(config: Config, task: Task) -> TrainingState:
    """The state at the start of the run that a config describes.

    Args:
        config: The run.
        task: What is trained, on its device.

    Raises:
        ConfigError: The optimizer does not take its options, or has no momentum to change.
    """
    settings, training = config.optimizer, config.training
    optimizer = GuardedOptimizer(
        task.parameter_groups(),
        settings.name,
        settings.options,
        learning_rate=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        on_gpu=device_of(task).type == "cuda",
        cuda_graph=training.cuda_graph,
    )
    if settings.beta1_schedule is not None and not optimizer.has_momentum:
        raise ConfigError(
            expected="an optimizer with beta1 or a momentum, as optimizer.beta1_schedule is set",
            found=f"{settings.name} without",
            where=config.name,
            fix="add optimizer.beta1_schedule=null, or optimizer.options={momentum: 0.9}",
        )
    clipping = build_clipping(training.gradient_clipping, task).to(device_of(task))
    return TrainingState(task, optimizer, training.weight_average, clipping)


def averaged_weights(
    average: Mapping[str, Tensor], step: int, decay: float | None
) -> dict[str, Tensor]:
    """Running averages of the weights, by name; none before the first step.

    Args:
        average: `TrainingState.average`, the sum of (1 - decay) decay^(step - t) times the weights
            of step t.
        step: Steps that it has seen.
        decay: `training.weight_average`.
    """
    if decay is None or not step:
        return {}
    # As Adam corrects its moments, which begin at 0 too (Kingma and Ba 2015, section 3).
    return {name: value / (1 - decay**step) for name, value in average.items()}


def _copy(values: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
