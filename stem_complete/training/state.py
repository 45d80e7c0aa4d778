"""All of a run that must survive a crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stem_complete.config import Config, validate_config
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ArtifactError, ConfigError
from stem_complete.models import freeze_mean_norm, initialise
from stem_complete.scan import CORRECTED
from stem_complete.training.checkpoint_folder import Checkpoint
from stem_complete.training.completion import CompletionTask
from stem_complete.training.schedule import Stage

NUM_INITIALISATION_EXAMPLES = 4


class TrainingState:
    """Task, optimizer and step. Data order and noise need no state: they follow from the step.

    Args:
        config: The run.
        task: What is trained, on its device.
    """

    def __init__(self, config: Config, task: CompletionTask) -> None:
        self.task = task
        self.step = 0
        self.stage: Stage | None = None
        self.decay = config.training.weight_average
        self.optimizer = build_optimizer(self.task, config)
        # From 0, and so to be divided by how much of the weights it has seen.
        self.average: dict[str, Tensor] = {}
        if self.decay is not None:
            self.average = {n: torch.zeros_like(p) for n, p in self.task.named_parameters()}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """All of it but the step, as tensors by name.

        `task`, Adam's moments as `optimizer` and, if there is one, the weights' running sum as
        `average`, see `averaged_weights`.
        """
        moments = {
            f"{name}.{kind}": value
            for name, parameter in self.task.named_parameters()
            for kind, value in self.optimizer.state[parameter].items()
        }
        state = {"task": self.task.state_dict(), "optimizer": moments}
        return state | {"average": self.average} if self.average else state

    def load(self, checkpoint: Checkpoint) -> None:
        """Takes over what `state_dict` gave, in this network's memory formats.

        Raises:
            ArtifactError: The checkpoint is of another network.
        """
        saved = checkpoint.state
        own = self.state_dict()
        try:
            self.task.load_state_dict(saved["task"])
            for part in own.keys() - {"task"}:
                for name, value in own[part].items():
                    value.copy_(saved[part][name])
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                expected="the state of the network in its config",
                found=str(error),
                where=checkpoint.folder,
            ) from None
        self.step = checkpoint.step

    def tensors(self) -> list[Tensor]:
        """Every tensor that must be the same on all workers, in a fixed order."""
        moments = [
            value
            for parameter in self.task.parameters()
            for value in self.optimizer.state[parameter].values()
        ]
        weights = [*self.task.parameters(), *self.task.buffers()]
        return [*weights, *moments, *self.average.values()]

    def enter(self, stage: Stage) -> None:
        """Sets what the schedule says."""
        self.stage = stage
        generator, trainer = self.optimizer.param_groups
        generator["lr"], trainer["lr"] = stage.learning_rate, stage.trainer_learning_rate
        for group in (generator, trainer):
            group["betas"] = (stage.beta1, group["betas"][1])
        if stage.mean_norm_frozen:
            freeze_mean_norm(self.task.network)

    @torch.no_grad()
    def update_average(self) -> None:
        """Adds the weights to their running average, if there is one."""
        if self.decay is not None:
            weights = [p.detach() for p in self.task.parameters()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.decay)

    @contextmanager
    def averaged(self) -> Iterator[CompletionTask]:
        """The task with the averaged weights, if there are such, while the context lasts."""
        averages = averaged_weights(self.average, self.step, self.decay)
        with torch.no_grad():
            kept = {name: p.clone() for name, p in self.task.named_parameters() if name in averages}
            _copy_weights(self.task, averages)
            try:
                yield self.task
            finally:
                _copy_weights(self.task, kept)


def initialise_task(task: CompletionTask, store: MicrographStore, device: torch.device) -> None:
    """Data-dependent initialisation, on the same examples on every worker."""
    crops = store.indices("train")[:NUM_INITIALISATION_EXAMPLES]
    images = torch.from_numpy(store.read(crops)).to(device)
    batch = task.simulator(images, 0, torch.arange(len(crops), device=device))
    generator = task.network.generator
    # A network that corrects a first completion begins with hardly any correction. Of one with
    # gates even less would leave the gradient of all other layers to chance.
    corrects = task.encoding in CORRECTED
    initialise(
        task.network,
        task.encode(batch.scan).x,
        output_std=(0.3 if generator.gates else 0.01) if corrects else 1.0,
        branch_std=0.1 if generator.inner.skips else 1.0,
    )


def averaged_weights(
    average: dict[str, Tensor], step: int, decay: float | None
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


def _copy_weights(task: CompletionTask, weights: dict[str, Tensor]) -> None:
    parameters = dict(task.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def build_optimizer(task: CompletionTask, config: Config) -> torch.optim.Adam:
    """Adam with one group for the generators and one for the trainer, whose rate is a multiple."""
    settings = config.optimizer
    optimizer = torch.optim.Adam(
        [
            {"params": list(task.network.generator.parameters())},
            {"params": list(task.network.trainer.parameters())},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,  # the fused step takes `found_inf`: it skips a bad step without host sync
        capturable=config.training.cuda_graph,
    )
    # Adam would do this in its first step; a checkpoint is loaded before that.
    for parameter in task.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def optimizer_step(optimizer: torch.optim.Adam, usable: Tensor) -> None:
    """Takes a step if `usable`, [], and leaves weights and Adam's moments as they are if not."""
    optimizer.found_inf = (~usable).float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()


def check_same_run(config: Config, checkpoint: Checkpoint) -> None:
    """What the sequence of crops and the shape of the state depend on must not have changed.

    What is made of the crops may, so that a run can end on other scans than it began with.

    Raises:
        ConfigError: It has.
    """
    before = validate_config(checkpoint.config, where=str(checkpoint.folder))
    now, then = _identity(config), _identity(before)
    for key, value in then.items():
        if now[key] != value:
            raise ConfigError(
                expected=f"{key} = {value}, as this run began with",
                found=str(now[key]),
                where=checkpoint.folder,
                fix="change it back, or start a new run with another name",
            )


def _identity(config: Config) -> dict[str, Any]:
    """What makes a run this run, by key."""
    sections = {"model": config.model, "loss": config.loss}
    return {
        "training.seed": config.training.seed,
        "training.batch_size": config.batch_size,
        "training.weight_average": config.training.weight_average,
        **{
            f"{name}.{key}": value
            for name, section in sections.items()
            for key, value in section.model_dump(mode="json").items()
        },
    }
